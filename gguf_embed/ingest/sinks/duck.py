"""`duckdb:file?table=`: an ordinary table whose vectors are FLOAT[n_dims]; rows come and go as Arrow."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gguf_embed.errors import ConfigError, EngineFailure
from gguf_embed.ingest.rows import METADATA_KEYS, Hit, Manifest
from gguf_embed.ingest.sinks.base import IndexChoice, Sink
from gguf_embed.ingest.sinks.database import one_line, require
from gguf_embed.ingest.sinks.embedded_sql import (
    CREATE_MANIFESTS,
    REPLACE_MANIFEST,
    EmbeddedTable,
)
from gguf_embed.ingest.sinks.id_hashes import IdSet, hashes_of
from gguf_embed.ingest.sinks.local_url import local_path
from gguf_embed.ingest.sinks.manifest_json import to_json
from gguf_embed.ingest.sinks.open import SinkUrl
from gguf_embed.ingest.sinks.row_vectors import HIT_COLUMNS, require_query_width, require_width
from gguf_embed.ingest.sinks.writer_lock import WriterLock
from gguf_embed.ingest.sql_names import quoted

CHECKPOINT = "256MB"  # of the log; each checkpoint rewrites up to 122,880 rows, and 16 MB are 7,000 rows
TYPES = {"chunk": "integer", "start": "bigint", "end": "bigint"}


def open_duckdb(url: SinkUrl) -> Sink:
    """A table in a file that may have others."""
    return DuckdbSink(require("duckdb", "duckdb", "duckdb"), local_path(url), url.table)


class DuckdbSink(EmbeddedTable):
    """Writes since the last flush are one transaction.

    The table has no primary key, whose index makes loading slower and slower. That ids are unique is seen to here: no
    other process can write to the file meanwhile, and rows whose id may be there are deleted first.
    """

    rows_per_read = 20_000
    table_names = "select table_name from information_schema.tables"

    def __init__(self, duckdb: Any, file: Path, table: str) -> None:
        super().__init__(f"DuckDB table {table} in {file}", file, table)
        self._duckdb = duckdb
        self._may_write = False
        self._in_transaction = False
        self._known: IdSet | None = None  # of all rows; None: not read yet
        self._lock: WriterLock | None = None

    def create(self, manifest: Manifest) -> None:
        with self._failures():
            self._file.parent.mkdir(parents=True, exist_ok=True)
            if self.manifest():
                raise ConfigError(f"{self.name} exists already")
            columns = [f"{quoted(name)} {TYPES.get(name, 'varchar')} not null" for name in ("id", *METADATA_KEYS)]
            self._begin()
            connection = self._connect(write=True)
            connection.execute(CREATE_MANIFESTS)
            connection.execute(
                f"create table {self._table} ({', '.join(columns)}, embedding float[{manifest.dimensions}] not null)"
            )
            connection.execute(REPLACE_MANIFEST, [self._key, to_json(manifest)])
            self.flush()
        self._n_dims = manifest.dimensions

    def replace_manifest(self, manifest: Manifest) -> None:
        with self._failures():
            self._begin().execute(REPLACE_MANIFEST, [self._key, to_json(manifest)])
            self.flush()

    def prepare(self, index: IndexChoice) -> str | None:
        with self._failures():
            self._connect(write=True)
        return None

    def write(self, rows: pa.RecordBatch) -> None:
        with self._failures():
            known = self._ids()
            require_width(rows, self._n_dims, self.name)
            hashes = hashes_of(rows.column("id"))
            is_known = known.contains(hashes)
            connection = self._begin()
            if is_known.any():
                self._delete(connection, rows.column("id").filter(pa.array(is_known)))
            columns = ", ".join(quoted(name) for name in rows.schema.names)
            connection.register("gguf_embed_rows", pa.Table.from_batches([rows]))
            connection.execute(f"insert into {self._table} ({columns}) select {columns} from gguf_embed_rows")
            connection.unregister("gguf_embed_rows")
            known.add(hashes[~is_known])

    def delete(self, ids: Sequence[str]) -> None:
        with self._failures():
            listed = pa.array(list(ids), pa.string())
            listed = listed.filter(pa.array(self._ids().contains(hashes_of(listed)), pa.bool_()))
            if len(listed):
                self._delete(self._begin(), listed)

    def _delete(self, connection: Any, ids: pa.Array) -> None:
        connection.register("gguf_embed_ids", pa.table({"id": ids}))
        connection.execute(f"delete from {self._table} where id in (select id from gguf_embed_ids)")
        connection.unregister("gguf_embed_ids")

    def flush(self) -> None:
        if self._in_transaction:
            with self._failures():
                self._connection.execute("commit")
                self._in_transaction = False

    def finish(self, index: IndexChoice) -> None:
        self.flush()
        if self._may_write:
            with self._failures():
                self._connection.execute("checkpoint")

    def _select(self, columns: Sequence[str]) -> Iterator[list[tuple[Any, ...]]]:
        self.flush()
        yield from super()._select(columns)

    def search(self, vector: NDArray[np.float32], n: int) -> list[Hit]:
        manifest = self.manifest()
        if manifest is None or n < 1:
            return []
        require_query_width(vector, manifest.dimensions, self.name)
        # the similarity to a vector of zeros is not a number, and sorts before all numbers
        columns = ", ".join(HIT_COLUMNS)
        score = f"array_cosine_similarity(embedding, ?::float[{manifest.dimensions}])"
        query = (
            f"select {columns}, if(isnan(score), 0, score) as score from "
            f"(select {columns}, {score} as score from {self._table}) order by score desc limit {n:d}"
        )
        with self._failures():
            found = self._connect().execute(query, [vector.tolist()]).fetchall()
        return [Hit(score=score, **dict(zip(HIT_COLUMNS, row, strict=True))) for *row, score in found]

    def close(self) -> None:
        self._disconnect()
        if self._lock is not None:
            self._lock.release()
            self._lock = self._known = None

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
            self._may_write = self._in_transaction = False

    def _connect(self, *, write: bool = False) -> Any:
        """Only a connection that writes keeps other processes from reading."""
        if self._connection is not None and (self._may_write or not write):
            return self._connection
        self._disconnect()
        write = write or not self._file.exists()
        try:
            self._connection = self._duckdb.connect(str(self._file), read_only=not write)
        except self._duckdb.ConnectionException:  # this process writes to the file already
            self._connection = self._duckdb.connect(str(self._file))
            write = True
        self._may_write = write
        if write:
            self._connection.execute(f"set checkpoint_threshold = '{CHECKPOINT}'")
        return self._connection

    def _begin(self) -> Any:
        connection = self._connect(write=True)
        if not self._in_transaction:
            connection.execute("begin")
            self._in_transaction = True
        return connection

    def _ids(self) -> IdSet:
        """Of all rows. The file is kept from other writers from here on."""
        self._connect(write=True)
        if not self._n_dims and self.manifest() is None:
            raise ConfigError(f"{self.name} does not exist yet")
        if self._lock is None:  # DuckDB's own lock does not keep two sinks of one process apart
            self._lock = WriterLock(
                self._file.with_name(f".{self._file.name}.{quote(self._key, safe='')}.lock"), self.name
            )
        if self._known is None:
            self._known = IdSet()
            for rows in self._select(("id",)):
                self._known.add(hashes_of(id_ for (id_,) in rows))
        return self._known

    @contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except self._duckdb.IOException as error:
            if "not a valid DuckDB" in str(error):
                raise ConfigError(f"{self._file} is not a DuckDB database: name another file") from error
            if "lock" in str(error):
                holder = re.search(r"PID (\d+)", str(error))
                process = f"process {holder[1]}" if holder else "another process"
                raise ConfigError(
                    f"{process} has {self._file} open, and DuckDB lets one process write: wait until it has ended"
                ) from error
            raise EngineFailure(f"{self.name}: {one_line(error)}") from error
        except (self._duckdb.Error, OSError) as error:
            raise EngineFailure(f"{self.name}: {one_line(error)}") from error
