"""Milvus: `milvus:file.db?table=docs` in this process (Milvus Lite), `milvus://host:port/docs` with a server."""

from __future__ import annotations

import json
import logging
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from gguf_embed.errors import ConfigError, EmbedError, EngineFailure
from gguf_embed.ingest.rows import STORED, Hit, Manifest
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
from gguf_embed.ingest.sinks.manifest_json import KEY, from_json, to_json
from gguf_embed.ingest.sinks.open import SinkUrl
from gguf_embed.ingest.sinks.row_vectors import (
    HIT_COLUMNS,
    matrix_of,
    require_kind,
    require_query_width,
    require_width,
    weights_of,
)
from gguf_embed.types import SPARSE

PORT = 19530
CONNECT_TIMEOUT_S = 10
REQUEST_TIMEOUT_S = 60
MAX_BYTES = 65_535  # of a string, and of a row's metadata
MAX_REQUEST_BYTES = 8 << 20  # a server takes 64 MiB
N_FETCHED = 10_000
N_DELETED = 1_000
STRINGS = ("id", "doc_id", "hash", "headings", "text")

_open_files: Counter[str] = Counter()
_files_lock = threading.Lock()


def open_milvus(url: SinkUrl) -> MilvusSink:
    """Raises `ConfigError` for a file that Milvus Lite would not take. The first call connects."""
    if not url.host and not url.path.endswith(".db"):
        raise ConfigError(f"a file of Milvus ends in .db, and {url.path!r} does not")
    return MilvusSink(url, collection_of(url) if url.host else url.table)


class MilvusSink:
    """One collection. It always has an index, which Milvus builds beside the writing."""

    def __init__(self, url: SinkUrl, collection: str) -> None:
        self._pymilvus = require("pymilvus", "pymilvus", "milvus")
        if not url.host:
            require("milvus_lite", "milvus-lite", "milvus")
        logging.getLogger("pymilvus").setLevel(logging.CRITICAL)  # it prints tracebacks of what it raises
        self._url = url
        self._where = host_and_port(url, PORT) if url.host else str(url.file)
        self.name = f"Milvus collection {collection} {'at' if url.host else 'in'} {self._where}"
        self._collection = collection
        self._opened: Any = None
        self._manifest: Manifest | None = None
        self._is_loaded = False

    def manifest(self) -> Manifest | None:
        if not self._url.host and not self._url.file.exists():
            return None  # opening it would make it
        if not self._call("has_collection"):
            return None
        found = self._call("describe_collection")
        text = (found.get("properties") or {}).get(KEY)
        if text is None:
            raise not_ours(self.name, "the path of the URL" if self._url.host else "?table=")
        manifest = from_json(text, self.name)
        names = {field["name"] for field in found["fields"]}
        if SPARSE in manifest.vectors and SPARSE not in names:
            raise ConfigError(
                f"{self.name} has been changed: its manifest names sparse vectors, which it does not have"
            )
        widths = [field["params"].get("dim") for field in found["fields"] if field["name"] == "embedding"]
        if [int(width) for width in widths] != ([manifest.dimensions] if manifest.dimensions else []):
            raise ConfigError(
                f"{self.name} has been changed: its field embedding has {widths} dimensions, and its manifest says "
                f"{manifest.dimensions}"
            )
        self._manifest = manifest
        if not self._is_loaded:
            self._call("load_collection")
            self._is_loaded = True
        return manifest

    def create(self, manifest: Manifest) -> None:
        kind = self._pymilvus.DataType
        schema = self._pymilvus.MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
        for name in STRINGS:
            schema.add_field(name, kind.VARCHAR, is_primary=name == "id", max_length=MAX_BYTES)
        schema.add_field("chunk", kind.INT32)
        schema.add_field("start", kind.INT64)
        schema.add_field("end", kind.INT64)
        schema.add_field("metadata", kind.JSON)
        index = self._pymilvus.MilvusClient.prepare_index_params()
        if manifest.dimensions:
            schema.add_field("embedding", kind.FLOAT_VECTOR, dim=manifest.dimensions)
            index.add_index("embedding", index_type="AUTOINDEX", metric_type="COSINE")
        if SPARSE in manifest.vectors:
            schema.add_field(SPARSE, kind.SPARSE_FLOAT_VECTOR)
            index.add_index(SPARSE, index_type="SPARSE_INVERTED_INDEX", metric_type="IP")
        self._call(
            "create_collection",
            schema=schema,
            index_params=index,
            properties={KEY: to_json(manifest)},
            consistency_level="Strong",
        )
        self._manifest, self._is_loaded = manifest, True

    def replace_manifest(self, manifest: Manifest) -> None:
        self._call("alter_collection_properties", properties={KEY: to_json(manifest)})
        self._manifest = manifest

    def prepare(self, index: IndexChoice) -> str | None:
        if self._described().idf:
            return (
                f"{self.name}: Milvus does not multiply {self._described().model}'s weights by the inverse document "
                "frequency: multiply a query's weights yourself"
            )
        return None

    def write(self, rows: pa.RecordBatch) -> None:
        require_width(rows, self._described().dimensions, self.name)
        self._check_lengths(rows)
        step = max(1, min(1_000, len(rows) * MAX_REQUEST_BYTES // max(1, rows.nbytes)))
        for first in range(0, len(rows), step):
            self._call("upsert", data=_entities(rows.slice(first, step)))

    def delete(self, ids: Sequence[str]) -> None:
        for first in range(0, len(ids), N_DELETED):
            # not `ids=`: it writes them as Python does, which Milvus cannot parse if they have quotes
            self._call("delete", filter=f"id in {json.dumps(ids[first : first + N_DELETED], ensure_ascii=False)}")

    def flush(self) -> None:
        """Nothing: the server has noted in its log what it has acknowledged."""

    def finish(self, index: IndexChoice) -> None:
        """Nothing is left to be cleaned up."""

    def stored(self) -> Iterator[pa.RecordBatch]:
        self._described()
        found = self._call("query_iterator", batch_size=N_FETCHED, output_fields=list(STORED))
        try:
            while True:
                with self._errors():
                    rows = found.next()
                if not rows:
                    return
                yield stored_batch([[row[name] for name in STORED] for row in rows])
        finally:
            found.close()

    def count(self) -> int:
        self._described()
        return int(self._call("query", filter="", output_fields=["count(*)"])[0]["count(*)"])

    def search(self, vector: NDArray[np.float32], n: int) -> list[Hit]:
        require_query_width(vector, self._described().dimensions, self.name)
        return self._query(np.asarray(vector, np.float32).tolist(), "embedding", n)

    def search_sparse(self, weights: Mapping[int, float], n: int) -> list[Hit]:
        require_kind(self._described(), SPARSE, self.name)
        if self._described().idf:
            raise ConfigError(
                f"{self.name} cannot be searched with {self._described().model}: Milvus does not multiply its weights "
                "by the inverse document frequency; a sink of qdrant does"
            )
        return self._query(dict(weights), SPARSE, n)

    def _query(self, query: Any, field: str, n: int) -> list[Hit]:
        columns = list(HIT_COLUMNS)
        wide = {} if self._url.host else {"search_params": {"params": {"ef": max(64, n)}}}  # Lite: 64, whatever n is
        found = self._call("search", data=[query], anns_field=field, limit=n, output_fields=columns, **wide)[0]
        return [
            Hit(
                row["id"],
                row["distance"],
                row["entity"]["doc_id"],
                row["entity"]["text"],
                orjson.dumps(row["entity"]["metadata"]).decode(),
                row["entity"]["headings"],
            )
            for row in found
        ]

    def close(self) -> None:
        if self._opened is not None:
            client, self._opened, self._manifest, self._is_loaded = self._opened, None, None, False
            client.close()
            if not self._url.host:
                self._release_file()

    def _client(self) -> Any:
        if self._opened is None:
            with self._errors():
                self._opened = self._connect() if self._url.host else self._open_file()
        return self._opened

    def _connect(self) -> Any:
        scheme = "https" if self._url.option("https").lower() in ("1", "true") else "http"
        return self._pymilvus.MilvusClient(
            f"{scheme}://{self._where}",
            user=self._url.user,
            password=self._url.password,
            db_name=self._url.option("database"),
            timeout=CONNECT_TIMEOUT_S,
        )

    def _open_file(self) -> Any:
        file = self._url.file.absolute()
        file.parent.mkdir(parents=True, exist_ok=True)
        with _files_lock:
            try:
                client = self._pymilvus.MilvusClient(str(file), timeout=CONNECT_TIMEOUT_S)
            except self._pymilvus.MilvusException as error:
                raise ConfigError(
                    f"{self.name} cannot be opened: another process has it open, or it is no file of Milvus Lite"
                ) from error
            _open_files[str(file)] += 1
        return client

    def _release_file(self) -> None:
        """Milvus Lite is a server in a thread, and keeps the file locked until it is told to stop."""
        manager = require("milvus_lite.server_manager", "milvus-lite", "milvus").server_manager_instance
        file = str(self._url.file.absolute())
        with _files_lock:
            _open_files[file] -= 1
            if not _open_files[file]:
                manager.release_server(file)

    def _described(self) -> Manifest:
        if self._manifest is None and self.manifest() is None:
            raise EngineFailure(f"{self.name} does not exist")
        assert self._manifest is not None
        return self._manifest

    def _call(self, method: str, **values: Any) -> Any:
        client = self._client()
        with self._errors():
            return getattr(client, method)(self._collection, timeout=REQUEST_TIMEOUT_S, **values)

    def _check_lengths(self, rows: pa.RecordBatch) -> None:
        for name in (*STRINGS, "metadata"):
            lengths = pc.binary_length(rows.column(name))
            if (pc.max(lengths).as_py() or 0) > MAX_BYTES:
                place = pc.index(pc.greater(lengths, MAX_BYTES), True).as_py()
                raise EngineFailure(
                    f"{self.name}: column {name} of row {rows.column('id')[place].as_py()[:100]!r} has "
                    f"{lengths[place].as_py():,} bytes, and Milvus stores {MAX_BYTES:,} at most: make smaller chunks"
                )

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except EmbedError:
            raise
        except Exception as error:  # MilvusException, and what gRPC and the client's checks raise
            message = one_line(Exception(getattr(error, "message", "") or str(error)), self._url.password)
            if self._url.host and _is_lost(error, message):
                raise unreachable(f"Milvus at {self._where}", message) from error
            raise EngineFailure(f"{self.name}: {message}") from error


def _is_lost(error: Exception, message: str) -> bool:
    return "UNAVAILABLE" in f"{getattr(error, 'code', '')} {message}" or "Fail connecting" in message


def _entities(rows: pa.RecordBatch) -> list[dict[str, Any]]:
    columns = lists(rows)
    columns["metadata"] = [orjson.loads(text) for text in columns["metadata"]]
    if "embedding" in rows.schema.names:
        columns["embedding"] = list(matrix_of(rows))
    if SPARSE in rows.schema.names:
        columns[SPARSE] = weights_of(rows)
    names = tuple(columns)
    return [dict(zip(names, row, strict=True)) for row in zip(*(columns[name] for name in names), strict=True)]
