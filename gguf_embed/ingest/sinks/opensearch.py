"""OpenSearch and Elasticsearch: `opensearch://user:password@host:9200/index`, `elasticsearch://host:9200/index`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
from numpy.typing import NDArray

from gguf_embed.errors import ConfigError, EmbedError, EngineFailure, Unavailable
from gguf_embed.ingest.rows import METADATA_KEYS, STORED, Hit, Manifest
from gguf_embed.ingest.sinks.base import IndexChoice
from gguf_embed.ingest.sinks.database import (
    collection_of,
    host_and_port,
    lists,
    not_ours,
    one_line,
    require,
    stored_batch,
    unreachable,
)
from gguf_embed.ingest.sinks.manifest_json import KEY, from_object, to_json
from gguf_embed.ingest.sinks.open import SinkUrl
from gguf_embed.ingest.sinks.opensearch_dialects import ELASTICSEARCH, MAX_FOUND, OPENSEARCH, PORT, Dialect
from gguf_embed.ingest.sinks.row_vectors import HIT_COLUMNS, matrix_of, require_query_width, require_width

N_PER_REQUEST = 500
MAX_REQUEST_BYTES = 10 << 20
MAX_RETRIES = 6
FIRST_PAUSE_S = 0.5
MAX_ID_BYTES = 512


def open_opensearch(url: SinkUrl) -> SearchIndexSink:
    """The first call connects."""
    return SearchIndexSink(url, OPENSEARCH)


def open_elasticsearch(url: SinkUrl) -> SearchIndexSink:
    """The first call connects."""
    return SearchIndexSink(url, ELASTICSEARCH)


class SearchIndexSink:
    """One index. While it is loaded, its rows become visible to searches only when the sink asks for it."""

    def __init__(self, url: SinkUrl, dialect: Dialect) -> None:
        if not url.host:
            raise ConfigError(f"{dialect.name} is a server: name its host, as in {url.scheme}://localhost:{PORT}/docs")
        module = require(dialect.module, dialect.package, dialect.extra)
        self._helpers = require(f"{dialect.module}.helpers", dialect.package, dialect.extra)
        self._dialect = dialect
        self._index = collection_of(url)
        self._password = url.password
        self._where = host_and_port(url, PORT)
        self.name = f"{dialect.name} index {self._index} at {self._where}"
        self._client = dialect.connect(module, url)
        self._dimensions: int | None = None
        self._interval: str | None = None
        self._is_stale = True

    def manifest(self) -> Manifest | None:
        with self._errors():
            if not self._client.indices.exists(index=self._index):
                return None
            mappings = [found["mappings"] for found in self._client.indices.get_mapping(index=self._index).values()]
        meta = mappings[0].get("_meta", {}).get(KEY)
        if meta is None or len(mappings) > 1:
            raise not_ours(self.name, "the path of the URL")
        manifest = from_object(dict(meta), self.name)
        width = mappings[0].get("properties", {}).get("embedding", {}).get(self._dialect.width_key)
        if width != manifest.dimensions:
            raise ConfigError(
                f"{self.name} has been changed: its vectors have {width} dimensions, and its manifest says "
                f"{manifest.dimensions}"
            )
        self._dimensions = manifest.dimensions
        return manifest

    def create(self, manifest: Manifest) -> None:
        texts, keywords = ("text", "headings"), ("id", "doc_id", "hash")
        properties: dict[str, dict[str, Any]] = {
            **{name: {"type": "text"} for name in texts},
            **{name: {"type": "keyword", "ignore_above": 8191} for name in keywords},
            **{name: {"type": "long"} for name in ("chunk", "start", "end")},
            # not indexed: a value that is longer or of another type than before would be an error
            "metadata": {"type": "object", "enabled": False},
            "embedding": self._dialect.embedding(manifest.dimensions),
        }
        meta = {KEY: json.loads(to_json(manifest))}
        mappings = {"dynamic": False, "_meta": meta, "properties": properties}
        with self._errors():
            body = {"settings": self._dialect.settings, "mappings": mappings}
            self._client.indices.create(index=self._index, body=body)
        self._dimensions = manifest.dimensions

    def replace_manifest(self, manifest: Manifest) -> None:
        with self._errors():
            self._client.indices.put_mapping(index=self._index, body={"_meta": {KEY: json.loads(to_json(manifest))}})

    def prepare(self, index: IndexChoice) -> str | None:
        """The vectors are always indexed, in batches: fewer of them if nobody sees the rows yet."""
        if index != "keep":
            with self._errors():
                settings = self._client.indices.get_settings(index=self._index)
                found = next(iter(settings.values()))["settings"]["index"].get("refresh_interval")
            self._interval = None if found == "-1" else found  # that of a run that was killed
            self._set_interval("-1")
        return None

    def write(self, rows: pa.RecordBatch) -> None:
        require_width(rows, self._width(), self.name)
        self._bulk(_actions(rows))

    def delete(self, ids: Sequence[str]) -> None:
        self._bulk({"_op_type": "delete", "_id": document_id(id_)} for id_ in ids)

    def flush(self) -> None:
        """Nothing: the server has noted in its log what it has acknowledged."""

    def finish(self, index: IndexChoice) -> None:
        if index != "keep":
            self._set_interval(self._interval)
        self._refresh()

    def stored(self) -> Iterator[pa.RecordBatch]:
        self._refresh()
        rows: list[list[Any]] = []
        with self._errors():
            query = {"_source": list(STORED), "query": {"match_all": {}}}
            for found in self._helpers.scan(self._client, index=self._index, query=query, size=N_PER_REQUEST):
                rows.append([found["_source"][name] for name in STORED])
                if len(rows) == N_PER_REQUEST:
                    yield stored_batch(rows)
                    rows = []
        if rows:
            yield stored_batch(rows)

    def count(self) -> int:
        self._refresh()
        with self._errors():
            return int(self._client.count(index=self._index)["count"])

    def search(self, vector: NDArray[np.float32], n: int) -> list[Hit]:
        require_query_width(vector, self._width(), self.name)
        if n > MAX_FOUND:
            raise ConfigError(f"{self.name} finds {MAX_FOUND:,} rows at most, not {n:,}")
        if self._is_stale:
            self._refresh()
        values = np.asarray(vector, np.float32)
        if not values.any():  # has no cosine, and is refused
            return []
        body = {"size": n, "_source": list(HIT_COLUMNS), **self._dialect.query(values.tolist(), n)}
        with self._errors():
            found = self._client.search(index=self._index, body=body)["hits"]["hits"]
        return [_hit(2 * hit["_score"] - 1, hit["_source"]) for hit in found]

    def close(self) -> None:
        self._client.close()

    def _bulk(self, actions: Iterator[dict[str, Any]]) -> None:
        """Raises `EngineFailure` that names the first row that was not stored. Overload is waited for."""
        self._is_stale = True
        with self._errors():
            results = self._helpers.streaming_bulk(
                self._client,
                actions,
                index=self._index,
                chunk_size=N_PER_REQUEST,
                max_chunk_bytes=MAX_REQUEST_BYTES,
                max_retries=MAX_RETRIES,
                initial_backoff=FIRST_PAUSE_S,
                raise_on_error=False,
            )
            for is_done, result in results:  # not in the order of the actions
                operation, outcome = next(iter(result.items()))
                if not is_done and not (operation == "delete" and outcome["status"] == 404):
                    if outcome["status"] == 429:
                        raise Unavailable(f"{self._dialect.name} at {self._where} is overloaded: {_reason(outcome)}")
                    raise EngineFailure(f"{self.name}: row {outcome['_id'][:100]!r} is refused: {_reason(outcome)}")

    def _refresh(self) -> None:
        with self._errors():
            self._client.indices.refresh(index=self._index)
        self._is_stale = False

    def _set_interval(self, interval: str | None) -> None:
        with self._errors():
            self._client.indices.put_settings(index=self._index, body={"index": {"refresh_interval": interval}})

    def _width(self) -> int:
        if self._dimensions is None and self.manifest() is None:
            raise EngineFailure(f"{self.name} does not exist")
        assert self._dimensions is not None
        return self._dimensions

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except EmbedError:
            raise
        except Exception as error:  # the two clients have classes of their own
            status = getattr(getattr(error, "meta", None), "status", None) or getattr(error, "status_code", None)
            message = _reason(getattr(error, "body", None) or getattr(error, "info", None)) or one_line(error)
            message = message.replace(self._password, "***") if self._password else message
            if status in (401, 403):
                raise ConfigError(f"{self._dialect.name} at {self._where} refuses access: {message}") from error
            if not isinstance(status, int):
                raise unreachable(f"{self._dialect.name} at {self._where}", message) from error
            if status in (429, 502, 503, 504):
                raise Unavailable(f"{self._dialect.name} at {self._where} does not answer: {message}") from error
            raise EngineFailure(f"{self.name}: {message} (status {status})") from error


def document_id(id_: str) -> str:
    """The id itself, or for one that is longer than a server takes its SHA-256."""
    data = id_.encode()
    return id_ if len(data) <= MAX_ID_BYTES else f"sha256:{sha256(data).hexdigest()}"


def _actions(rows: pa.RecordBatch) -> Iterator[dict[str, Any]]:
    columns = lists(rows)
    columns["metadata"] = [orjson.loads(text) for text in columns["metadata"]]
    columns["embedding"] = matrix_of(rows).tolist()
    names = ("id", *METADATA_KEYS, "embedding")
    for row in zip(*(columns[name] for name in names), strict=True):
        source = dict(zip(names, row, strict=True))
        yield {"_op_type": "index", "_id": document_id(source["id"]), "_source": source}


def _hit(score: float, source: dict[str, Any]) -> Hit:
    metadata = orjson.dumps(source["metadata"]).decode()
    return Hit(source["id"], score, source["doc_id"], source["text"], metadata, source["headings"])


def _reason(found: Any) -> str:
    """The server's words in the reply to a request, or to one row of it."""
    error = found.get("error") if isinstance(found, dict) else None
    if isinstance(error, dict):
        cause = error.get("caused_by") or {}
        return one_line(Exception(": ".join(filter(None, (error.get("reason"), cause.get("reason"))))))
    return one_line(Exception(error)) if error else ""
