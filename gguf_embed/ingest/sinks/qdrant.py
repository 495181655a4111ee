"""Qdrant: a server `qdrant://host:6333/collection`, or its engine in this process on a folder, `qdrant:/folder`."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
from numpy.typing import NDArray

from gguf_embed.errors import ConfigError, EmbedError, EngineFailure, Unavailable
from gguf_embed.ingest.rows import STORED, Hit, Manifest
from gguf_embed.ingest.sinks.base import IndexChoice, Sink
from gguf_embed.ingest.sinks.database import collection_of, host_and_port, not_ours, one_line, require
from gguf_embed.ingest.sinks.manifest_json import KEY, from_object, to_json
from gguf_embed.ingest.sinks.open import SinkUrl
from gguf_embed.ingest.sinks.qdrant_points import hit, payloads, point_ids, stored_points
from gguf_embed.ingest.sinks.row_vectors import matrix_of, require_query_width, require_width

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
        self._dimensions: int | None = None
        self._threshold = DEFAULT_INDEXING_THRESHOLD

    def manifest(self) -> Manifest | None:
        if not self._call(self._client.collection_exists, self._collection):
            return None
        config = self._call(self._client.get_collection, self._collection).config
        if not config.metadata or KEY not in config.metadata:
            raise not_ours(self.name, "the path of the URL")
        manifest = from_object(dict(config.metadata[KEY]), self.name)
        size = getattr(config.params.vectors, "size", None)
        if size != manifest.dimensions:
            raise ConfigError(
                f"{self.name} has been changed: its vectors have {size} dimensions, and its manifest says "
                f"{manifest.dimensions}"
            )
        self._dimensions = manifest.dimensions
        return manifest

    def create(self, manifest: Manifest) -> None:
        parameters = self._models.VectorParams(size=manifest.dimensions, distance=self._models.Distance.COSINE)
        metadata = {KEY: json.loads(to_json(manifest))}
        self._call(self._client.create_collection, self._collection, vectors_config=parameters, metadata=metadata)
        kept = self._call(self._client.get_collection, self._collection).config.metadata
        if not kept or KEY not in kept:
            self._call(self._client.delete_collection, self._collection)
            raise ConfigError(f"Qdrant at {self._where} cannot keep the manifest: version 1.16 or newer is needed")
        self._dimensions = manifest.dimensions

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
        require_width(rows, self._width(), self.name)
        for first in range(0, len(rows), N_PER_REQUEST):
            part = rows.slice(first, N_PER_REQUEST)
            batch = self._models.Batch(
                ids=point_ids(part.column("id").to_pylist()),
                vectors=matrix_of(part).tolist(),
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
        require_query_width(vector, self._width(), self.name)
        query = np.asarray(vector, np.float32).tolist()
        found = self._call(self._client.query_points, self._collection, query=query, limit=n, with_payload=True)
        return [hit(point.score, point.payload) for point in found.points]

    def close(self) -> None:
        self._client.close()

    def _set_threshold(self, kilobytes: int) -> None:
        changes = self._models.OptimizersConfigDiff(indexing_threshold=kilobytes)
        self._call(self._client.update_collection, self._collection, optimizers_config=changes)

    def _width(self) -> int:
        if self._dimensions is None and self.manifest() is None:
            raise EngineFailure(f"{self.name} does not exist")
        assert self._dimensions is not None
        return self._dimensions

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
            return Unavailable(f"Qdrant at {self._where}: {message}")
        return EngineFailure(f"{self.name}: {message}")


def _reason(error: Any) -> str:
    """Of an HTTP error, in the server's words."""
    try:
        return f"{orjson.loads(error.content)['status']['error']} (status {error.status_code})"
    except (ValueError, KeyError, TypeError):
        return f"status {error.status_code} {one_line(Exception(error.reason_phrase))}"
