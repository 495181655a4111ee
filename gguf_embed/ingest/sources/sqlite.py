"""A table or a query of an SQLite file: `sqlite:notes.db?table=notes`."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

from gguf_embed.errors import ConfigError, EmbedError, EngineFailure
from gguf_embed.ingest.rows import BadRow
from gguf_embed.ingest.sources.base import Source, SourceOptions
from gguf_embed.ingest.sources.database import (
    N_FIRST_ROWS,
    Chosen,
    DatabaseSource,
    DatabaseUrl,
    choose_columns,
    parse_database_url,
    placed_rows,
)
from gguf_embed.ingest.sources.fields import Row
from gguf_embed.ingest.sql_names import quoted


class SqliteSource(DatabaseSource):
    """A table is read in order of its primary key or its row ids, a view in order of the id field."""

    def __init__(self, url: DatabaseUrl, options: SourceOptions) -> None:
        super().__init__(f"{url.path} {url.rows_name}", url)
        if not Path(url.path).expanduser().is_file():
            relative = url.path.removeprefix("/")
            hint = f": write sqlite:{relative} for a relative path" if Path(relative).is_file() else ""
            raise ConfigError(f"there is no file {url.path}{hint}")
        with _failures(self._config_error), closing(self._connect()) as connection:
            self._chosen = self._choose(connection, options)
            self._statement = self._select(connection, self._chosen)
            if url.table:
                self._n_rows = connection.execute(f"select count(*) from {quoted(url.table)}").fetchone()[0]

    def _rows(self, n_rows: int) -> Iterator[tuple[str, Row | BadRow]]:
        with _failures(lambda reason: EngineFailure(f"{self.name} after row {self._n_read} cannot be read: {reason}")):
            self._connection = connection = self._connect()
            rows = connection.execute(self._statement)
            for row in placed_rows(rows, self._chosen.columns, self._url):
                yield row
                self._n_read += 1

    def _connect(self) -> sqlite3.Connection:
        path = quote(str(Path(self._url.path).expanduser()))
        connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, check_same_thread=False)
        connection.text_factory = _text_or_bytes
        return connection

    def _choose(self, connection: sqlite3.Connection, options: SourceOptions) -> Chosen:
        with closing(connection.execute(f"select * from {self._rows_of()} limit {N_FIRST_ROWS}")) as cursor:
            names = [column[0] for column in cursor.description]
            return choose_columns(options, names, cursor.fetchall(), self.name)

    def _rows_of(self) -> str:
        return quoted(self._url.table) if self._url.table else f"(\n{self._url.query}\n)"

    def _select(self, connection: sqlite3.Connection, chosen: Chosen) -> str:
        if not self._url.table:
            return f"select {', '.join(map(quoted, chosen.columns))} from {self._rows_of()}"
        return (
            f"select {', '.join(map(quoted, chosen.columns))} from {self._rows_of()} "
            f"order by {', '.join(self._order(connection, chosen))}"
        )

    def _order(self, connection: sqlite3.Connection, chosen: Chosen) -> list[str]:
        columns = connection.execute(f"pragma table_info({quoted(self._url.table)})").fetchall()
        key = [quoted(name) for _, name, _, _, _, place in sorted(columns, key=lambda column: column[5]) if place]
        if key:
            return key
        kind = connection.execute(
            "select type from sqlite_master where name = ? collate nocase", (self._url.table,)
        ).fetchone()
        if kind != ("view",):
            return ["rowid"]
        if chosen.fields.id is None:
            raise ConfigError(
                f"the view {self._url.table} has no order: name the field with its ids, or give a query with ORDER BY"
            )
        return [quoted(chosen.fields.id)]

    def _config_error(self, reason: str) -> EmbedError:
        return ConfigError(f"{self._url.shown} cannot be read: {reason}{self._tables_there(reason)}")

    def _tables_there(self, reason: str) -> str:
        if "no such table" not in reason:
            return ""
        with closing(self._connect()) as connection:
            found = connection.execute("select name from sqlite_master where type in ('table', 'view') order by name")
            names = [str(name) for (name,) in found]
        return f"; it has {', '.join(names) or 'no tables'}"


@contextmanager
def _failures(to_error: Callable[[str], EmbedError]) -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, sqlite3.Warning) as error:
        raise to_error(str(error)) from error


def _text_or_bytes(value: bytes) -> str | bytes:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value


def open_sqlite(location: str, options: SourceOptions) -> Source:
    return SqliteSource(parse_database_url(location, options), options)
