"""PostgreSQL with pgvector: `postgresql://user@host:port/database?table=docs`, `postgresql:///database?host=/run/pg`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import isnan
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gguf_embed.errors import ConfigError, EngineFailure, Unavailable
from gguf_embed.ingest.rows import METADATA_KEYS, Hit, Manifest
from gguf_embed.ingest.sinks import postgres_sql as statements
from gguf_embed.ingest.sinks.base import IndexChoice
from gguf_embed.ingest.sinks.database import lists, not_ours, one_line, require, stored_batch
from gguf_embed.ingest.sinks.manifest_json import from_json, to_json
from gguf_embed.ingest.sinks.open import SinkUrl
from gguf_embed.ingest.sinks.row_vectors import (
    matrix_of,
    require_kind,
    require_query_width,
    require_width,
    weights_of,
)
from gguf_embed.types import SPARSE

MAX_INDEXED = 2_000
"""Dimensions. pgvector's HNSW takes no more, and twice as many in half precision."""
MAX_SPARSE = 1_000_000_000  # dimensions
MAX_EXACT_SEARCH = 1_000  # of rows found: the largest hnsw.ef_search
MIN_ROWS_TO_REBUILD = 2_000
BUILD_MEMORY_KIB = 512 * 1024
MAX_NAME_BYTES = 63
N_FETCHED = 10_000
CONNECT_TIMEOUT_S = 10
LOST_STATES = ("080", "57P")
"""How SQLSTATE begins for lost connections and a server that shuts down or starts."""


def open_postgres(url: SinkUrl) -> PostgresSink:
    """Raises `Unavailable` if the server cannot be reached, `ConfigError` if it refuses, or has no pgvector."""
    table = url.table.rpartition(".")[2]
    if "%" in url.table or not 1 <= len(table.encode()) <= MAX_NAME_BYTES:
        raise ConfigError(f"a table of PostgreSQL cannot be called {table!r}: take 1 to 63 bytes without %")
    return PostgresSink(url)


class PostgresSink:
    """One table. Each batch is one transaction, with its rows in the order of their ids, so writers never deadlock."""

    def __init__(self, url: SinkUrl) -> None:
        self._psycopg = require("psycopg", "psycopg", "postgres")
        self._sparse_vector = require("pgvector", "pgvector", "postgres").SparseVector
        self._register_vector = require("pgvector.psycopg", "pgvector", "postgres").register_vector
        self._password = url.password
        self._address = _address(url)
        self._where = self._address.get("host") or "this machine"
        self.name = f"PostgreSQL table {url.table} in {self._address.get('dbname', 'the default database')}"
        self._connection = self._connect()
        schema, _, table = url.table.rpartition(".")
        with self._errors():
            if not schema:
                schema = self._value("select coalesce(current_schema(), 'public')")
        self._sql = statements.Statements(schema, table)
        self._dimensions: int | None = None
        self._n_vocab = 0  # of sparse vectors; 0: the table has none
        self._n_written = 0
        self._rebuild_above: int | None = None  # written rows from which our index is dropped and built again
        self._has_loading_table = False

    def manifest(self) -> Manifest | None:
        with self._errors():
            if self._value(statements.TABLE, self._sql.place) is None:
                return None
            text = None
            if self._value(statements.TABLE, (self._sql.schema, statements.MANIFESTS)) is not None:
                text = self._value(self._sql.read_manifest, (self._sql.table,))
            types = dict(self._connection.execute(statements.VECTOR_TYPES, self._sql.place).fetchall())
        if text is None:
            raise not_ours(self.name)
        manifest = from_json(text, self.name)
        self._describe(manifest)
        for name, expected in self._sql.vector_types.items():
            if types.get(name) != expected:
                raise ConfigError(
                    f"{self.name} has been changed: its column {name} is {types.get(name, 'missing')}, and its "
                    f"manifest says {expected}"
                )
        return manifest

    def create(self, manifest: Manifest) -> None:
        """Raises `ConfigError` for BM25, whose term ids are hashes."""
        if manifest.n_vocab > MAX_SPARSE:
            raise ConfigError(
                f"PostgreSQL stores sparse vectors of up to {MAX_SPARSE:,} dimensions, and those of {manifest.model} "
                f"have {manifest.n_vocab:,}: use a sink of qdrant"
            )
        self._describe(manifest)
        with self._errors(), self._connection.transaction():
            self._connection.execute(statements.LOCK)  # "if not exists" fails if two do it at the same time
            self._connection.execute(self._sql.create_manifests)
            self._connection.execute(self._sql.create)
            self._connection.execute(self._sql.write_manifest, (self._sql.table, to_json(manifest)))

    def replace_manifest(self, manifest: Manifest) -> None:
        with self._errors():
            self._connection.execute(self._sql.write_manifest, (self._sql.table, to_json(manifest)))

    def prepare(self, index: IndexChoice) -> str | None:
        self._rebuild_above = None
        with self._errors():
            found = self._vector_indexes()
            if not found:
                return self._index_limits() if index == "after" else None
            slow = f"{self.name} has the index {', '.join(found)} on its vectors, which makes writing much slower"
            if index != "after":
                return f"{slow}: drop it, or use --index after"
            if found != [self._sql.index_name]:
                return f"{slow} and is not gguf-embed's own: drop it before the load, and build it again after that"
            self._rebuild_above = max(MIN_ROWS_TO_REBUILD, self.count() // 4)
            return f"{slow}: it is dropped after {self._rebuild_above:,} rows, and built again at the end"

    def write(self, rows: pa.RecordBatch) -> None:
        require_width(rows, self._width(), self.name)
        with self._errors():
            self._before_write()
            with self._connection.transaction(), self._connection.cursor() as cursor:
                self._copy(cursor, rows)
                cursor.execute(self._sql.upsert)
        self._n_written += rows.num_rows

    def delete(self, ids: Sequence[str]) -> None:
        with self._errors():
            self._connection.execute(self._sql.delete, (list(ids),))

    def flush(self) -> None:
        """Nothing: each batch was committed."""

    def finish(self, index: IndexChoice) -> None:
        with self._errors():
            if index == "after" and not self._vector_indexes():
                self._build_index()
            self._connection.execute(self._sql.analyze)

    def stored(self) -> Iterator[pa.RecordBatch]:
        with (
            self._errors(),
            self._connect() as connection,  # of its own: its transaction lasts as long as the caller reads
            connection.transaction(),
            connection.cursor(name="stored") as cursor,
        ):
            cursor.execute(self._sql.stored)
            while rows := cursor.fetchmany(N_FETCHED):
                yield stored_batch(rows)

    def count(self) -> int:
        with self._errors():
            return int(self._value(self._sql.count))

    def search(self, vector: NDArray[np.float32], n: int) -> list[Hit]:
        require_query_width(vector, self._width(), self.name)
        with self._errors(), self._connection.transaction():
            if n > MAX_EXACT_SEARCH:
                self._connection.execute("set local enable_indexscan = off")
            else:
                self._connection.execute(f"set local hnsw.ef_search = {max(100, n)}")
            half = self._width() > MAX_INDEXED and bool(self._vector_indexes())
            values = {"vector": np.asarray(vector, np.float32), "n": n}
            found = self._connection.execute(self._sql.search(half=half), values).fetchall()
        return [Hit(row[0], 0.0 if isnan(row[1]) else row[1], *row[2:]) for row in found]

    def search_sparse(self, weights: Mapping[int, float], n: int) -> list[Hit]:
        require_kind(self.manifest(), SPARSE, self.name)
        vector = self._sparse_vector(dict(weights), self._n_vocab)
        with self._errors():
            found = self._connection.execute(self._sql.search_sparse, {"vector": vector, "n": n}).fetchall()
        return [Hit(*row) for row in found]

    def close(self) -> None:
        self._connection.close()

    def _connect(self) -> Any:
        try:
            connection = self._psycopg.connect(**self._address, autocommit=True)
        except self._psycopg.OperationalError as error:
            message = one_line(error, self._password)
            refused = "FATAL" in message and "starting up" not in message and "shutting down" not in message
            raise (ConfigError if refused else Unavailable)(f"PostgreSQL at {self._where}: {message}") from error
        except self._psycopg.ProgrammingError as error:
            raise ConfigError(f"the URL of the sink: {one_line(error, self._password)}") from error
        try:
            self._register_vector(connection)
        except self._psycopg.ProgrammingError as error:
            database = connection.info.dbname
            connection.close()
            raise ConfigError(
                f"the database {database} at {self._where} lacks pgvector: install it on the server, "
                "then run CREATE EXTENSION vector in this database"
            ) from error
        return connection

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except self._psycopg.Error as error:
            message = one_line(error, self._password)
            if self._connection.closed or str(error.sqlstate)[:3] in LOST_STATES:
                raise Unavailable(f"the connection to PostgreSQL at {self._where} is lost: {message}") from error
            raise EngineFailure(f"{self.name}: {message}") from error

    def _value(self, statement: Any, values: Sequence[Any] | None = None) -> Any:
        row = self._connection.execute(statement, values).fetchone()
        return None if row is None else row[0]

    def _describe(self, manifest: Manifest) -> None:
        self._dimensions, self._n_vocab = manifest.dimensions, manifest.n_vocab
        self._sql = statements.Statements(*self._sql.place, manifest.dimensions, manifest.n_vocab)

    def _width(self) -> int:
        if self._dimensions is None and self.manifest() is None:
            raise EngineFailure(f"{self.name} does not exist")
        assert self._dimensions is not None
        return self._dimensions

    def _vector_indexes(self) -> list[str]:
        return [name for (name,) in self._connection.execute(statements.VECTOR_INDEXES, self._sql.place)]

    def _index_limits(self) -> str | None:
        width = self._width()
        if width <= MAX_INDEXED:
            return None
        if width <= 2 * MAX_INDEXED:
            return f"{self.name}: the index has half precision, because pgvector indexes {MAX_INDEXED:,} floats at most"
        return f"{self.name} gets no index, because pgvector indexes {2 * MAX_INDEXED:,} dimensions at most"

    def _before_write(self) -> None:
        if not self._has_loading_table:
            self._connection.execute(self._sql.create_loading)
            self._has_loading_table = True
        if self._rebuild_above is not None and self._n_written > self._rebuild_above:
            self._connection.execute(self._sql.drop_index)
            self._rebuild_above = None

    def _copy(self, cursor: Any, rows: pa.RecordBatch) -> None:
        columns = lists(rows)
        with cursor.copy(self._sql.copy) as copy:
            copy.set_types(self._sql.copy_types)
            values: list[Any] = [columns["id"], *(columns[key] for key in METADATA_KEYS)]
            if self._dimensions:
                values.append(matrix_of(rows))
            if self._n_vocab:
                values.append([self._sparse_vector(weights, self._n_vocab) for weights in weights_of(rows)])
            for row in zip(*values, strict=True):
                copy.write_row(row)

    def _build_index(self) -> None:
        width = self._width()
        if not 0 < width <= 2 * MAX_INDEXED:
            return
        with self._connection.transaction():
            self._connection.execute(statements.LOCK)
            if self._vector_indexes():  # another job's
                return
            memory_kib = self._value("select setting::bigint from pg_settings where name = 'maintenance_work_mem'")
            self._connection.execute(f"set local maintenance_work_mem = {max(memory_kib, BUILD_MEMORY_KIB)}")
            self._connection.execute(self._sql.create_index(half=width > MAX_INDEXED))


def _address(url: SinkUrl) -> dict[str, Any]:
    """What `psycopg.connect` takes; options of the URL, such as sslmode, are passed on."""
    database = url.path.strip("/")
    address: dict[str, Any] = {"connect_timeout": CONNECT_TIMEOUT_S, **(url.options or {})}
    given = {"host": url.host, "port": url.port, "user": url.user, "password": url.password, "dbname": database}
    return address | {name: value for name, value in given.items() if value}
