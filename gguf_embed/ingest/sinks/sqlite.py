"""`sqlite:file?table=`: an ordinary table that needs no extension; the vectors are little-endian float32 in BLOBs."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gguf_embed.errors import ConfigError, EngineFailure, Unavailable
from gguf_embed.ingest.rows import METADATA_KEYS, Hit, Manifest
from gguf_embed.ingest.sinks.base import IndexChoice, Sink
from gguf_embed.ingest.sinks.database import one_line
from gguf_embed.ingest.sinks.embedded_sql import CREATE_MANIFESTS, REPLACE_MANIFEST, EmbeddedTable
from gguf_embed.ingest.sinks.local_url import local_path
from gguf_embed.ingest.sinks.manifest_json import to_json
from gguf_embed.ingest.sinks.open import SinkUrl
from gguf_embed.ingest.sinks.row_vectors import (
    HIT_COLUMNS,
    Nearest,
    matrix_of,
    require_query_width,
    require_width,
)
from gguf_embed.ingest.sql_names import quoted

LOCK_WAIT_S = 30
TYPES = {"chunk": "integer", "start": "integer", "end": "integer"}
COLUMNS = ("id", *METADATA_KEYS, "embedding")

# With a write-ahead log, FULL makes each commit survive a loss of power; NORMAL would not.
SETTINGS = ("journal_mode=wal", "synchronous=full", "wal_autocheckpoint=4000")


def open_sqlite(url: SinkUrl) -> Sink:
    """A table in a file that may have others."""
    return SqliteSink(local_path(url), url.table)


class SqliteSink(EmbeddedTable):
    """Writes since the last flush are one transaction."""

    rows_per_read = 2_000
    table_names = "select name from sqlite_master where type in ('table', 'view')"

    def __init__(self, file: Path, table: str) -> None:
        super().__init__(f"SQLite table {table} in {file}", file, table)
        self._connection: sqlite3.Connection | None = None
        self._is_changed = False  # since the last flush

    def create(self, manifest: Manifest) -> None:
        with self._failures():
            self._file.parent.mkdir(parents=True, exist_ok=True)
            connection = self._connect()
            if self.manifest():
                raise ConfigError(f"{self.name} exists already")
            types = [f"{quoted(name)} {TYPES.get(name, 'text')} not null" for name in METADATA_KEYS]
            connection.execute("begin immediate")
            connection.execute(
                f"create table {self._table} "
                f"(id text primary key not null, {', '.join(types)}, embedding blob not null)"
            )
            connection.execute(CREATE_MANIFESTS)
            connection.execute(REPLACE_MANIFEST, (self._key, to_json(manifest)))
            connection.execute("commit")
            self._n_dims = manifest.dimensions

    def replace_manifest(self, manifest: Manifest) -> None:
        with self._failures():
            self._changing().execute(REPLACE_MANIFEST, (self._key, to_json(manifest)))
            self.flush()

    def prepare(self, index: IndexChoice) -> str | None:
        return None

    def write(self, rows: pa.RecordBatch) -> None:
        with self._failures():
            connection = self._changing()
            require_width(rows, self._n_dims, self.name)
            data = matrix_of(rows).astype("<f4", copy=False).tobytes()
            width = 4 * self._n_dims
            vectors = [data[first : first + width] for first in range(0, len(data), width)]
            columns = [rows.column(name).to_pylist() for name in COLUMNS[:-1]]
            connection.executemany(self._upsert(), zip(*columns, vectors, strict=True))

    def _upsert(self) -> str:
        names = [quoted(name) for name in COLUMNS]
        updates = ", ".join(f"{name} = excluded.{name}" for name in names[1:])
        return (
            f"insert into {self._table} ({', '.join(names)}) values ({', '.join('?' * len(names))}) "
            f"on conflict (id) do update set {updates}"
        )

    def delete(self, ids: Sequence[str]) -> None:
        with self._failures():
            self._changing().executemany(f"delete from {self._table} where id = ?", ((id_,) for id_ in ids))

    def flush(self) -> None:
        if self._connection is not None and self._is_changed:
            with self._failures():
                self._connection.execute("commit")  # fails if SQLite gave the transaction up, on a full disk
                self._is_changed = False

    def finish(self, index: IndexChoice) -> None:
        self.flush()
        if self._connection is not None:
            with self._failures():
                self._connection.execute("pragma wal_checkpoint(truncate)")

    def search(self, vector: NDArray[np.float32], n: int) -> list[Hit]:
        manifest = self.manifest()
        if manifest is None or n < 1:
            return []
        require_query_width(vector, manifest.dimensions, self.name)
        nearest = Nearest[object](vector, n)
        for rows in self._select(("rowid", "embedding")):
            data = b"".join(blob for _, blob in rows if isinstance(blob, bytes))
            if len(data) != 4 * manifest.dimensions * len(rows):
                raise EngineFailure(f"{self.name} has vectors that do not have {manifest.dimensions} dimensions")
            matrix = np.frombuffer(data, "<f4").reshape(len(rows), manifest.dimensions)
            nearest.see(matrix, [rowid for rowid, _ in rows].__getitem__)
        wanted = f"select {', '.join(HIT_COLUMNS)} from {self._table} where rowid = ?"
        with self._failures():
            connection = self._connect()
            found = [(score, connection.execute(wanted, (rowid,)).fetchone()) for score, rowid in nearest.found]
        return [Hit(score=score, **dict(zip(HIT_COLUMNS, row, strict=True))) for score, row in found if row]

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
            self._is_changed = False

    def _connect(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = sqlite3.connect(
                self._file, timeout=LOCK_WAIT_S, isolation_level=None, check_same_thread=False
            )
            for setting in SETTINGS:
                self._connection.execute(f"pragma {setting}")
        return self._connection

    def _changing(self) -> sqlite3.Connection:
        """In a transaction, so that nothing waits for a lock half way."""
        if not self._n_dims and self.manifest() is None:
            raise ConfigError(f"{self.name} does not exist yet")
        connection = self._connect()
        if not connection.in_transaction:
            if self._is_changed:
                raise EngineFailure(f"{self.name}: what was written since the last flush was lost in an error")
            connection.execute("begin immediate")
            self._is_changed = True
        return connection

    @contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise Unavailable(
                    f"{self.name}: another process has been writing to the file for {LOCK_WAIT_S} s: try again when "
                    "it has ended"
                ) from error
            if "unable to open" in str(error):
                raise ConfigError(
                    f"{self._file} cannot be opened: name a file in a folder that may be written"
                ) from error
            raise EngineFailure(f"{self.name}: {one_line(error)}") from error
        except sqlite3.DatabaseError as error:
            if "not a database" in str(error):
                raise ConfigError(f"{self._file} is not an SQLite database: name another file") from error
            raise EngineFailure(f"{self.name}: {one_line(error)}") from error
        except OSError as error:
            raise EngineFailure(f"{self.name}: {one_line(error)}") from error
