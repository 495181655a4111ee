"""What SQLite and DuckDB have in common: one file, with a table of rows and a table of manifests beside it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import Any

import pyarrow as pa

from gguf_embed.ingest.rows import STORED, Manifest
from gguf_embed.ingest.sinks.database import not_ours, stored_batch
from gguf_embed.ingest.sinks.manifest_json import from_json
from gguf_embed.ingest.sql_names import quoted

MANIFEST_TABLE = "gguf_embed_manifest"
CREATE_MANIFESTS = f"create table if not exists {MANIFEST_TABLE} (name text primary key, manifest text not null)"
SELECT_MANIFEST = f"select manifest from {MANIFEST_TABLE} where name = ?"
REPLACE_MANIFEST = f"insert or replace into {MANIFEST_TABLE} values (?, ?)"


class EmbeddedTable(ABC):
    """What both read in the same way."""

    rows_per_read: int
    table_names: str  # a query for the names of all tables

    def __init__(self, name: str, file: Path, table: str) -> None:
        self.name = name
        self._file = file
        self._key = table
        self._table = quoted(table)
        self._connection: Any = None
        self._n_dims = 0  # 0: not known yet

    @abstractmethod
    def _connect(self) -> Any:
        """The connection, opened if it is not."""

    @abstractmethod
    def _failures(self) -> AbstractContextManager[None]:
        """Turns the database's errors into `EmbedError`s."""

    def manifest(self) -> Manifest | None:
        if self._connection is None and not self._file.exists():
            return None
        with self._failures():
            found = self._read_manifest(self._connect())
        self._n_dims = found.dimensions if found else 0
        return found

    def _read_manifest(self, connection: Any) -> Manifest | None:
        tables = {name.lower() for (name,) in connection.execute(self.table_names).fetchall()}
        if self._key.lower() not in tables:
            return None
        row = connection.execute(SELECT_MANIFEST, (self._key,)).fetchone() if MANIFEST_TABLE in tables else None
        if row is None:
            raise not_ours(self.name)
        return from_json(row[0], self.name)

    def tables(self) -> list[str]:
        if self._connection is None and not self._file.exists():
            return []
        with self._failures():
            connection = self._connect()
            names = {name for (name,) in connection.execute(self.table_names).fetchall()}
            if MANIFEST_TABLE not in names:
                return []
            filled = connection.execute(f"select name from {MANIFEST_TABLE} order by name").fetchall()
            return [name for (name,) in filled if name in names]

    def stored(self) -> Iterator[pa.RecordBatch]:
        return map(stored_batch, self._select(STORED))

    def _select(self, columns: Sequence[str]) -> Iterator[list[tuple[Any, ...]]]:
        if self.manifest() is None:
            return
        with self._failures(), closing(self._connect().cursor()) as cursor:
            cursor.execute(f"select {', '.join(map(quoted, columns))} from {self._table}")
            while rows := cursor.fetchmany(self.rows_per_read):
                yield rows

    def count(self) -> int:
        if self.manifest() is None:
            return 0
        with self._failures():
            return int(self._connect().execute(f"select count(*) from {self._table}").fetchone()[0])
