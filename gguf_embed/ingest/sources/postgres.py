"""A table or a query of PostgreSQL: `postgresql://me@host/app?table=notes`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import unquote, urlsplit

from gguf_embed.errors import ConfigError, EmbedError, Unavailable
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
from gguf_embed.ingest.sources.fields import Row, refuse_other_types

if TYPE_CHECKING:
    import psycopg
    from psycopg import sql

    Connection: TypeAlias = psycopg.Connection[tuple[Any, ...]]

CONNECT_TIMEOUT_S = 15

PRIMARY_KEY = """
select a.attname from pg_index i
cross join unnest(i.indkey) with ordinality as k(attnum, place)
join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum
where i.indrelid = %s::regclass and i.indisprimary order by k.place
"""


class PostgresSource(DatabaseSource):
    """Read through a cursor of the server, in one transaction that cannot write.

    A table is read in order of its primary key, else of the id field, else of the places of its rows.
    """

    def __init__(self, url: DatabaseUrl, options: SourceOptions) -> None:
        super().__init__(f"{url.shown} {url.rows_name}", url)
        with _failures(self._config_error), closing(self._connect()) as connection:
            self._chosen = self._choose(connection, options)
            self._statement = self._select(connection)
            if url.table:
                self._n_rows = self._estimated_rows(connection)

    def _rows(self, n_rows: int) -> Iterator[tuple[str, Row | BadRow]]:
        with _failures(self._unavailable):
            self._connection = connection = self._connect()
            with connection.cursor(name="gguf_embed") as cursor:
                cursor.itersize = min(n_rows, self._chosen.rows_at_once)
                cursor.execute(self._statement)
                for row in placed_rows(cursor, self._chosen.columns, self._url):
                    yield row
                    self._n_read += 1

    def _connect(self) -> Connection:
        import psycopg

        timeout = {} if "connect_timeout" in self._url.server else {"connect_timeout": CONNECT_TIMEOUT_S}
        connection = psycopg.connect(self._url.server, **timeout)
        connection.read_only = True
        return connection

    def _choose(self, connection: Connection, options: SourceOptions) -> Chosen:
        from psycopg import sql

        cursor = connection.execute(
            sql.SQL("select * from {} limit {}").format(self._rows_of(), sql.Literal(N_FIRST_ROWS))
        )
        names = [column.name for column in cursor.description or ()]
        chosen = choose_columns(options, names, cursor.fetchall(), self.name)
        refuse_other_types(chosen.types, chosen.fields, self.name)
        return chosen

    def _rows_of(self) -> sql.Composable:
        from psycopg import sql

        if self._url.table:
            return self._table()
        return sql.SQL("(\n{}\n) as source").format(sql.SQL(self._url.query))

    def _table(self) -> sql.Identifier:
        from psycopg import sql

        return sql.Identifier(*self._url.table.split("."))

    def _select(self, connection: Connection) -> sql.Composable:
        from psycopg import sql

        columns = sql.SQL(", ").join(map(sql.Identifier, self._chosen.columns))
        select = sql.SQL("select {} from {}").format(columns, self._rows_of())
        if not self._url.table:
            return select
        return select + sql.SQL(" order by ") + sql.SQL(", ").join(map(sql.Identifier, self._order(connection)))

    def _order(self, connection: Connection) -> Sequence[str]:
        table = self._table().as_string(connection)
        key = [str(name) for (name,) in connection.execute(PRIMARY_KEY, (table,))]
        if key:
            return key
        kind = connection.execute("select relkind from pg_class where oid = %s::regclass", (table,)).fetchone()
        places = ["tableoid", "ctid"] if kind and kind[0] in ("r", "p", "m") else []
        order = [*([self._chosen.fields.id] if self._chosen.fields.id else []), *places]
        if not order:
            raise ConfigError(
                f"the view {self._url.table} has no order: name the field with its ids, or give a query with ORDER BY"
            )
        return order

    def _estimated_rows(self, connection: Connection) -> int | None:
        """What the server noted at its last ANALYZE."""
        found = connection.execute(
            "select reltuples::bigint from pg_class where oid = %s::regclass", (self._table().as_string(connection),)
        ).fetchone()
        return found[0] if found and found[0] > 0 else None

    def _config_error(self, reason: str) -> EmbedError:
        return ConfigError(f"{self._url.shown} cannot be read: {self._without_password(reason)}")

    def _unavailable(self, reason: str) -> EmbedError:
        return Unavailable(f"{self.name} after row {self._n_read} cannot be read: {self._without_password(reason)}")

    def _without_password(self, reason: str) -> str:
        reason = reason.replace(self._url.server, self._url.shown)
        password = urlsplit(self._url.server).password
        for secret in {password or "", unquote(password or "")}:
            reason = reason.replace(secret, "***") if secret else reason
        return reason


@contextmanager
def _failures(to_error: Callable[[str], EmbedError]) -> Iterator[None]:
    import psycopg

    try:
        yield
    except psycopg.Error as error:
        lines = str(error).strip().splitlines()
        raise to_error(lines[0] if lines else type(error).__name__) from error


def open_postgres(location: str, options: SourceOptions) -> Source:
    try:
        import psycopg  # noqa: F401
    except ImportError:
        raise ConfigError("PostgreSQL needs the package psycopg: pip install 'gguf-embed[postgres]'") from None
    return PostgresSource(parse_database_url(location, options), options)
