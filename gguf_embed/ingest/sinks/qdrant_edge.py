"""Qdrant's engine in this process, on a folder: `qdrant:/folder`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
from gguf_embed.ingest.sinks.qdrant_points import hit, payloads, point_ids, stored_points
from gguf_embed.ingest.sinks.row_vectors import matrix_of, require_query_width, require_width

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
        self._dimensions: int | None = None

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
        self._dimensions = manifest.dimensions
        return manifest

    def create(self, manifest: Manifest) -> None:
        if self.manifest() is not None:
            raise ConfigError(f"{self.name} already exists")
        self.replace_manifest(manifest)  # before the shard: a folder with a shard alone is not ours
        self._dimensions = manifest.dimensions
        self._shard()

    def replace_manifest(self, manifest: Manifest) -> None:
        with atomic_write(self._manifest_file) as temporary:
            temporary.write_text(to_json(manifest))

    def prepare(self, index: IndexChoice) -> str | None:
        """Nothing: writing goes to a segment without an index."""
        return None

    def write(self, rows: pa.RecordBatch) -> None:
        shard = self._shard()
        require_width(rows, self._width(), self.name)
        with self._errors():
            for first in range(0, len(rows), N_PER_REQUEST):
                part = rows.slice(first, N_PER_REQUEST)
                ids = point_ids(part.column("id").to_pylist())
                points = [self._edge.Point(*parts) for parts in zip(ids, matrix_of(part), payloads(part), strict=True)]
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
        require_query_width(vector, self._width(), self.name)
        query = self._edge.Query.Nearest(np.asarray(vector, np.float32).tolist())
        with self._errors():
            found = shard.query(self._edge.QueryRequest(limit=n, query=query, with_payload=True))
        return [hit(point.score, point.payload) for point in found]

    def close(self) -> None:
        if self._opened is not None:
            shard, self._opened = self._opened, None
            with self._errors():
                shard.close()

    def _width(self) -> int:
        assert self._dimensions is not None
        return self._dimensions

    def _shard(self) -> Any:
        """Opened now if it is not yet; made if a run was killed between the manifest and it."""
        if self._opened is None:
            if self._dimensions is None and self.manifest() is None:
                raise EngineFailure(f"{self.name} does not exist")
            with self._errors():
                if (self._folder / "edge_config.json").exists():
                    self._opened = self._edge.EdgeShard.load(str(self._folder))
                else:
                    distance = self._edge.Distance.Cosine
                    vectors = self._edge.EdgeVectorParams(size=self._width(), distance=distance)
                    config = self._edge.EdgeConfig(vectors=vectors)
                    self._opened = self._edge.EdgeShard.create(str(self._folder), config)
        return self._opened

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # the engine raises nothing more special
            if "WouldBlock" in str(error):
                raise ConfigError(f"another process has {self.name} open: wait until it has ended") from error
            raise EngineFailure(f"{self.name}: {one_line(error)}") from error
