"""Qdrant: a server `qdrant://host:6333/collection`, or its engine in this process on a folder, `qdrant:/folder`."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
from numpy.typing import NDArray

from gguf_embed.errors import ConfigError, EmbedError, EngineFailure
from gguf_embed.ingest.rows import STORED, Hit, Manifest
from gguf_embed.ingest.sinks.base import IndexChoice, Sink
from gguf_embed.ingest.sinks.database import collection_of, host_and_port, not_ours, one_line, require, unreachable
from gguf_embed.ingest.sinks.manifest_json import KEY, from_object, to_json
from gguf_embed.ingest.sinks.open import SinkUrl
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
from gguf_embed.ingest.sinks.row_vectors import require_kind, require_query_width, require_width
from gguf_embed.types import DENSE, MULTIVECTOR, SPARSE

PORT = 6333
TIMEOUT_S = 60
N_PER_REQUEST = 256  # points: some megabytes of JSON, of the 32 that a server takes
N_FETCHED = 1_000
N_TRIES = 6
MAX_WAIT_S = 60
DEFAULT_INDEXING_THRESHOLD = 10_000  # kilobytes of vectors in a segment


def open_qdrant(url: SinkUrl) -> Sink:
    """With a host the server, else the engine in this process. Raises `ConfigError` if its package is missing."""
    if not url.host:
        from gguf_embed.ingest.sinks.qdrant_edge import open_qdrant_edge

        return open_qdrant_edge(url)
    api_key = url.password or os.environ.get("QDRANT_API_KEY") or None
    https = {"": None, "1": True, "true": True, "0": False, "false": False}.get(url.option("https").lower())
    client = require("qdrant_client", "qdrant-client", "qdrant").QdrantClient(
        host=url.host,
        port=url.port or PORT,
        https=https,
        api_key=api_key,
        timeout=TIMEOUT_S,
        check_compatibility=False,  # it would warn about a server that does not answer; the first call says so, too
    )
    return QdrantSink(client, collection_of(url), host_and_port(url, PORT), api_key or "")


class QdrantSink:
    """One collection of a server. Vectors are stored with length 1."""

    def __init__(self, client: Any, collection: str, where: str, secret: str = "") -> None:
        self.name = f"Qdrant collection {collection} at {where}"
        self._client = client
        self._collection = collection
        self._where = where
        self._secret = secret
        self._models = require("qdrant_client.models", "qdrant-client", "qdrant")
        self._api = require("qdrant_client.http.exceptions", "qdrant-client", "qdrant")
        self._exhausted = require(
            "qdrant_client.common.client_exceptions", "qdrant-client", "qdrant"
        ).ResourceExhaustedResponse
        self._manifest: Manifest | None = None
        self._threshold = DEFAULT_INDEXING_THRESHOLD

    def manifest(self) -> Manifest | None:
        if not self._call(self._client.collection_exists, self._collection):
            return None
        config = self._call(self._client.get_collection, self._collection).config
        if not config.metadata or KEY not in config.metadata:
            raise not_ours(self.name, "the path of the URL")
        manifest = from_object(dict(config.metadata[KEY]), self.name)
        found, expected = _sizes(config.params), _sizes(self._models.CollectionParams(**self._parameters(manifest)))
        if found != expected:
            raise ConfigError(
                f"{self.name} has been changed: its vectors have {_in_words(found)} dimensions, and its manifest says "
                f"{_in_words(expected)}"
            )
        self._manifest = manifest
        return manifest

    def create(self, manifest: Manifest) -> None:
        metadata = {KEY: json.loads(to_json(manifest))}
        parameters = {f"{name}_config": value for name, value in self._parameters(manifest).items()}
        self._call(self._client.create_collection, self._collection, metadata=metadata, **parameters)
        kept = self._call(self._client.get_collection, self._collection).config.metadata
        if not kept or KEY not in kept:
            self._call(self._client.delete_collection, self._collection)
            raise ConfigError(f"Qdrant at {self._where} cannot keep the manifest: version 1.16 or newer is needed")
        self._manifest = manifest

    def replace_manifest(self, manifest: Manifest) -> None:
        metadata = {KEY: json.loads(to_json(manifest))}
        self._call(self._client.update_collection, self._collection, metadata=metadata)

    def prepare(self, index: IndexChoice) -> str | None:
        """The index is built beside the writing, which `after` and `none` suspend."""
        if index != "keep":
            config = self._call(self._client.get_collection, self._collection).config.optimizer_config
            self._threshold = config.indexing_threshold or DEFAULT_INDEXING_THRESHOLD  # 0: a run that was killed
            self._set_threshold(0)
        return None

    def write(self, rows: pa.RecordBatch) -> None:
        manifest = self._described()
        require_width(rows, manifest.dimensions, self.name)
        step = n_per_request(rows, N_PER_REQUEST)
        for first in range(0, len(rows), step):
            part = rows.slice(first, step)
            vectors = named_vectors(part, self._models.SparseVector)
            batch = self._models.Batch(
                ids=point_ids(part.column("id").to_pylist()),
                vectors=vectors[DENSE] if is_plain(manifest) else vectors,
                payloads=payloads(part),
            )
            self._call(self._client.upsert, self._collection, points=batch, wait=True)

    def delete(self, ids: Sequence[str]) -> None:
        for first in range(0, len(ids), N_FETCHED):
            points = self._models.PointIdsList(points=point_ids(ids[first : first + N_FETCHED]))
            self._call(self._client.delete, self._collection, points_selector=points, wait=True)

    def flush(self) -> None:
        """Nothing: the server has noted in its log what it has acknowledged."""

    def finish(self, index: IndexChoice) -> None:
        if index == "after":
            self._set_threshold(self._threshold)

    def stored(self) -> Iterator[pa.RecordBatch]:
        offset = None
        while True:
            points, offset = self._call(
                self._client.scroll, self._collection, limit=N_FETCHED, offset=offset, with_payload=list(STORED)
            )
            if points:
                yield stored_points(points)
            if offset is None:
                return

    def count(self) -> int:
        return int(self._call(self._client.count, self._collection, exact=True).count)

    def search(self, vector: NDArray[np.float32], n: int) -> list[Hit]:
        manifest = self._described()
        require_query_width(vector, manifest.dimensions, self.name)
        return self._query(np.asarray(vector, np.float32).tolist(), None if is_plain(manifest) else DENSE, n)

    def search_sparse(self, weights: Mapping[int, float], n: int) -> list[Hit]:
        require_kind(self._described(), SPARSE, self.name)
        return self._query(self._models.SparseVector(**indices_and_values(weights)), SPARSE, n)

    def search_multivector(self, vectors: NDArray[np.float32], n: int) -> list[Hit]:
        require_kind(self._described(), MULTIVECTOR, self.name)
        return self._query(np.asarray(vectors, np.float32).tolist(), MULTIVECTOR, n)

    def _query(self, query: Any, using: str | None, n: int) -> list[Hit]:
        found = self._call(
            self._client.query_points, self._collection, query=query, using=using, limit=n, with_payload=True
        )
        return [hit(point.score, point.payload) for point in found.points]

    def close(self) -> None:
        self._client.close()

    def _set_threshold(self, kilobytes: int) -> None:
        changes = self._models.OptimizersConfigDiff(indexing_threshold=kilobytes)
        self._call(self._client.update_collection, self._collection, optimizers_config=changes)

    def _described(self) -> Manifest:
        if self._manifest is None and self.manifest() is None:
            raise EngineFailure(f"{self.name} does not exist")
        assert self._manifest is not None
        return self._manifest

    def _parameters(self, manifest: Manifest) -> dict[str, Any]:
        """Of the collection. Dense vectors alone have no name, others have that of their kind."""
        models, cosine = self._models, self._models.Distance.COSINE
        dense = models.VectorParams(size=manifest.dimensions or 1, distance=cosine)
        if is_plain(manifest):
            return {"vectors": dense}
        vectors = {DENSE: dense} if DENSE in manifest.vectors else {}
        if MULTIVECTOR in manifest.vectors:
            maxsim = models.MultiVectorConfig(comparator=models.MultiVectorComparator.MAX_SIM)
            vectors[MULTIVECTOR] = models.VectorParams(
                size=manifest.multivector_dimensions, distance=cosine, multivector_config=maxsim
            )
        modifier = models.Modifier.IDF if manifest.idf else None
        sparse = {SPARSE: models.SparseVectorParams(modifier=modifier)} if SPARSE in manifest.vectors else {}
        return {"vectors": vectors, "sparse_vectors": sparse}

    def _call(self, request: Callable[..., Any], *values: Any, **named: Any) -> Any:
        """Again after a pause if the server is overloaded."""
        for n_tried in range(1, N_TRIES + 1):
            try:
                return request(*values, **named)
            except Exception as error:
                pause_s = self._pause_s(error, n_tried)
                if pause_s is None or n_tried == N_TRIES:
                    raise self._as_embed_error(error) from error
                time.sleep(pause_s)
        raise AssertionError("the last try returns or raises")

    def _pause_s(self, error: Exception, n_tried: int) -> float | None:
        """None: trying again does not help."""
        if isinstance(error, self._exhausted):
            return float(min(MAX_WAIT_S, max(0, error.retry_after_s)))
        if isinstance(error, self._api.UnexpectedResponse) and error.status_code in (429, 502, 503, 504):
            return float(min(MAX_WAIT_S, 0.25 * 2**n_tried))
        return None

    def _as_embed_error(self, error: Exception) -> EmbedError:
        if isinstance(error, self._api.UnexpectedResponse):
            if error.status_code in (401, 403):
                return ConfigError(
                    f"Qdrant at {self._where} refuses the API key: set QDRANT_API_KEY, or write it into the URL as "
                    "qdrant://:KEY@host"
                )
            return EngineFailure(f"{self.name}: {_reason(error)}")
        message = one_line(error, self._secret)
        if isinstance(error, self._api.ResponseHandlingException | self._exhausted):
            return unreachable(f"Qdrant at {self._where}", message)
        return EngineFailure(f"{self.name}: {message}")


def _sizes(parameters: Any) -> dict[str, int]:
    """The dimensions of each kind of vectors; 0 for sparse ones, which have none."""
    vectors = parameters.vectors if isinstance(parameters.vectors, dict) else {DENSE: parameters.vectors}
    found = {name: getattr(vector, "size", 0) for name, vector in vectors.items()}
    return found | dict.fromkeys(parameters.sparse_vectors or {}, 0)


def _in_words(sizes: Mapping[str, int]) -> str:
    return ", ".join(str(size) if sizes.keys() == {DENSE} else f"{size} ({name})" for name, size in sizes.items())


def _reason(error: Any) -> str:
    """Of an HTTP error, in the server's words."""
    try:
        return f"{orjson.loads(error.content)['status']['error']} (status {error.status_code})"
    except (ValueError, KeyError, TypeError):
        return f"status {error.status_code} {one_line(Exception(error.reason_phrase))}"
