"""What sources in databases have in common: the URL, and the choice between a table and a query."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

from gguf_embed.errors import ConfigError
from gguf_embed.ingest.rows import BadRow, DocumentBatch
from gguf_embed.ingest.sources.base import SourceOptions, TextKind
from gguf_embed.ingest.sources.documents import documents_of, in_batches
from gguf_embed.ingest.sources.fields import TEXT, Fields, Row, choose_fields, columns_of, refuse_doubled

N_FIRST_ROWS = 100
"""They tell the types of the columns, and how long a row is."""

MAX_FETCHED_CHARACTERS = 16 << 20


@dataclass(frozen=True, slots=True)
class DatabaseUrl:
    """Where the rows are. One of `table` and `query` is given."""

    scheme: str
    path: str  # of a file
    server: str  # the URL without table and query, for the database's own client
    shown: str  # the same without the password
    table: str
    query: str  # without a semicolon at its end

    @property
    def rows_name(self) -> str:
        """What places begin with."""
        return self.table or "query"


def parse_database_url(location: str, options: SourceOptions) -> DatabaseUrl:
    """Raises `ConfigError` if it names no table and no query, or both."""
    try:
        parts = urlsplit(location)
        port = f":{parts.port}" if parts.port else ""
    except ValueError as error:
        raise ConfigError(f"the URL of the database cannot be read: {error}") from error
    others = parse_qsl(parts.query, keep_blank_values=True)
    given = dict(others)
    table, query = given.get("table", ""), options.query or given.get("query", "")
    query = query.strip().rstrip(";").rstrip()
    others = [(name, value) for name, value in others if name not in ("table", "query")]
    user = f"{parts.username}@" if parts.username else ""
    shown = f"{parts.scheme}://{user}{parts.hostname or ''}{port}{parts.path}"
    if bool(table) == bool(query):
        problem = "names both a table and a query" if table else "names no table"
        raise ConfigError(f"{shown} {problem}: add ?table=NAME, or give a query")
    server = urlunsplit(parts._replace(query=urlencode(others), fragment=""))
    return DatabaseUrl(parts.scheme, unquote(parts.path), server, shown, table, query)


@dataclass(frozen=True, slots=True)
class Chosen:
    """What the first rows tell."""

    fields: Fields
    columns: tuple[str, ...]  # that have to be read
    types: dict[str, str]  # of all, in words; a column of nulls counts as strings
    rows_at_once: int  # by the length of the first rows


def choose_columns(
    options: SourceOptions, names: Sequence[str], first_rows: Sequence[Sequence[object]], where: str
) -> Chosen:
    """Raises `ConfigError` that lists the columns."""
    types = dict.fromkeys(names, TEXT) | columns_of(dict(zip(names, row, strict=True)) for row in first_rows)
    fields = choose_fields(options, types, where)
    refuse_doubled(names, fields, where)
    n_characters = sum(len(value) for row in first_rows for value in row if isinstance(value, str | bytes))
    rows_at_once = MAX_FETCHED_CHARACTERS * len(first_rows) // max(1, n_characters)
    return Chosen(fields, tuple(fields.needed(dict.fromkeys(names))), types, max(1, rows_at_once))


def placed_rows(
    rows: Iterable[Sequence[object]], columns: Sequence[str], url: DatabaseUrl
) -> Iterator[tuple[str, Row | BadRow]]:
    """Places are "<table>:<number of the row>"."""
    for number, row in enumerate(rows, 1):
        yield f"{url.rows_name}:{number}", dict(zip(columns, row, strict=True))


class Closable(Protocol):
    """A connection."""

    def close(self) -> None: ...


class DatabaseSource(ABC):
    """Implements `Source` for rows that one statement gives, over a connection of its own each time it is read."""

    kind: TextKind = "text"

    def __init__(self, name: str, url: DatabaseUrl) -> None:
        self.name = name
        self._url = url
        self._connection: Closable | None = None
        self._n_read = 0
        self._n_rows: int | None = None
        self._chosen: Chosen

    def batches(self, n_rows: int) -> Iterator[DocumentBatch]:
        self.close()
        self._n_read = 0
        try:
            yield from in_batches(documents_of(self._rows(n_rows), self._chosen.fields), n_rows)
            self._n_rows = self._n_read
        finally:
            self.close()

    @abstractmethod
    def _rows(self, n_rows: int) -> Iterator[tuple[str, Row | BadRow]]:
        """All rows, about `n_rows` fetched at once; counted in `_n_read`. Leaves its connection in `_connection`."""

    def share_read(self) -> float | None:
        if self._n_rows is None:
            return None
        return min(1.0, self._n_read / self._n_rows) if self._n_rows else 1.0

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
