"""Qdrant's engine in this process, on a folder: `qdrant:/folder`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gguf_embed.errors import ConfigError, EngineFailure
from gguf_embed.gguf_file.atomic_write import atomic_write
from gguf_embed.ingest.rows import STORED, Hit, Manifest
from gguf_embed.ingest.sinks.base import IndexChoice
from gguf_embed.ingest.sinks.database import not_ours, one_line, require
from gguf_embed.ingest.sinks.manifest_json import KEY, from_json, to_json
from gguf_embed.ingest.sinks.open import DEFAULT_TABLE, SinkUrl
from gguf_embed.ingest.sinks.qdrant_points import (
    hit,
    indices_and_values,
    is_plain,
    n_per_request,
    named_vectors,
    payloads,
    point_ids,
    stored_points,
)
from gguf_embed.ingest.sinks.row_vectors import matrix_of, require_kind, require_query_width, require_width
from gguf_embed.types import DENSE, MULTIVECTOR, SPARSE

N_PER_REQUEST = 1_000


def open_qdrant_edge(url: SinkUrl) -> QdrantEdgeSink:
    """Raises `ConfigError` if the URL names a table, because a folder holds one collection."""
    if url.table != DEFAULT_TABLE:
        raise ConfigError(
            f"a folder of Qdrant holds one collection, so ?table={url.table} cannot be chosen: leave it out, and name "
            "another folder"
        )
    return QdrantEdgeSink(url.file)


class QdrantEdgeSink:
    """A shard in a folder, with the manifest in a file beside it. One process at a time."""

    def __init__(self, folder: Path) -> None:
        self.name = f"Qdrant folder {folder}"
        self._edge = require("qdrant_edge", "qdrant-edge-py", "qdrant")
        self._folder = folder
        self._manifest_file = folder / f"{KEY}.json"
        self._opened: Any = None
        self._manifest: Manifest | None = None

    def manifest(self) -> Manifest | None:
        try:
            text = self._manifest_file.read_bytes()
        except FileNotFoundError:
            if not self._folder.is_dir() or not any(self._folder.iterdir()):
                return None
            raise not_ours(self.name, "the path of the URL") from None
        except OSError as error:
            raise ConfigError(f"{self.name} cannot be read: {error.strerror}") from error
        manifest = from_json(text, self.name)
        self._manifest = manifest
        return manifest

    def create(self, manifest: Manifest) -> None:
        if self.manifest() is not None:
            raise ConfigError(f"{self.name} already exists")
        self.replace_manifest(manifest)  # before the shard: a folder with a shard alone is not ours
        self._manifest = manifest
        self._shard()

    def replace_manifest(self, manifest: Manifest) -> None:
        with atomic_write(self._manifest_file) as temporary:
            temporary.write_text(to_json(manifest))

    def prepare(self, index: IndexChoice) -> str | None:
        """Nothing: writing goes to a segment without an index."""
        return None

    def write(self, rows: pa.RecordBatch) -> None:
        shard = self._shard()
        manifest = self._described()
        require_width(rows, manifest.dimensions, self.name)
        step = n_per_request(rows, N_PER_REQUEST)
        with self._errors():
            for first in range(0, len(rows), step):
                part = rows.slice(first, step)
                ids = point_ids(part.column("id").to_pylist())
                vectors = matrix_of(part) if is_plain(manifest) else self._vectors(part)
                points = [self._edge.Point(*parts) for parts in zip(ids, vectors, payloads(part), strict=True)]
                shard.update(self._edge.UpdateOperation.upsert_points(points))

    def delete(self, ids: Sequence[str]) -> None:
        shard = self._shard()
        with self._errors():
            shard.update(self._edge.UpdateOperation.delete_points(point_ids(ids)))

    def flush(self) -> None:
        shard = self._shard()
        with self._errors():
            shard.flush()

    def finish(self, index: IndexChoice) -> None:
        """`after`: builds the HNSW index of segments that are large enough for one."""
        shard = self._shard()
        with self._errors():
            if index == "after":
                shard.optimize()
            shard.flush()

    def stored(self) -> Iterator[pa.RecordBatch]:
        offset = None
        while True:
            with self._errors():
                request = self._edge.ScrollRequest(offset=offset, limit=N_PER_REQUEST, with_payload=list(STORED))
                points, offset = self._shard().scroll(request)
            if points:
                yield stored_points(points)
            if offset is None:
                return

    def count(self) -> int:
        shard = self._shard()
        with self._errors():
            return int(shard.count(self._edge.CountRequest(exact=True)))

    def search(self, vector: NDArray[np.float32], n: int) -> list[Hit]:
        shard = self._shard()
        manifest = self._described()
        require_query_width(vector, manifest.dimensions, self.name)
        using = None if is_plain(manifest) else DENSE
        return self._query(shard, self._edge.Query.Nearest(np.asarray(vector, np.float32).tolist(), using), n)

    def search_sparse(self, weights: Mapping[int, float], n: int) -> list[Hit]:
        shard = self._shard()
        require_kind(self._described(), SPARSE, self.name)
        return self._query(
            shard, self._edge.Query.Nearest(self._edge.SparseVector(**indices_and_values(weights)), SPARSE), n
        )

    def search_multivector(self, vectors: NDArray[np.float32], n: int) -> list[Hit]:
        shard = self._shard()
        require_kind(self._described(), MULTIVECTOR, self.name)
        return self._query(shard, self._edge.Query.Nearest(np.asarray(vectors, np.float32).tolist(), MULTIVECTOR), n)

    def _query(self, shard: Any, query: Any, n: int) -> list[Hit]:
        with self._errors():
            found = shard.query(self._edge.QueryRequest(limit=n, query=query, with_payload=True))
        return [hit(point.score, point.payload) for point in found]

    def close(self) -> None:
        if self._opened is not None:
            shard, self._opened = self._opened, None
            with self._errors():
                shard.close()

    def _described(self) -> Manifest:
        assert self._manifest is not None
        return self._manifest

    def _vectors(self, rows: pa.RecordBatch) -> list[dict[str, Any]]:
        """The vectors of each row by their kind."""
        by_kind = named_vectors(rows, self._edge.SparseVector)
        return [dict(zip(by_kind, row, strict=True)) for row in zip(*by_kind.values(), strict=True)]

    def _config(self) -> Any:
        """Of a new shard. Dense vectors alone have no name, others have that of their kind."""
        edge, manifest, cosine = self._edge, self._described(), self._edge.Distance.Cosine
        if is_plain(manifest):
            return edge.EdgeConfig(vectors=edge.EdgeVectorParams(size=manifest.dimensions, distance=cosine))
        vectors = {}
        if DENSE in manifest.vectors:
            vectors[DENSE] = edge.EdgeVectorParams(size=manifest.dimensions, distance=cosine)
        if MULTIVECTOR in manifest.vectors:
            maxsim = edge.MultiVectorConfig(edge.MultiVectorComparator.MaxSim)
            vectors[MULTIVECTOR] = edge.EdgeVectorParams(
                size=manifest.multivector_dimensions, distance=cosine, multivector_config=maxsim
            )
        modifier = edge.Modifier.Idf if manifest.idf else None
        sparse = {SPARSE: edge.EdgeSparseVectorParams(modifier=modifier)} if SPARSE in manifest.vectors else {}
        return edge.EdgeConfig(vectors=vectors, sparse_vectors=sparse)

    def _shard(self) -> Any:
        """Opened now if it is not yet; made if a run was killed between the manifest and it."""
        if self._opened is None:
            if self._manifest is None and self.manifest() is None:
                raise EngineFailure(f"{self.name} does not exist")
            with self._errors():
                if (self._folder / "edge_config.json").exists():
                    self._opened = self._edge.EdgeShard.load(str(self._folder))
                else:
                    self._opened = self._edge.EdgeShard.create(str(self._folder), self._config())
        return self._opened

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # the engine raises nothing more special
            if "WouldBlock" in str(error):
                raise ConfigError(f"another process has {self.name} open: wait until it has ended") from error
            raise EngineFailure(f"{self.name}: {one_line(error)}") from error
