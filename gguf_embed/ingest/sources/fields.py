"""Which fields of a row are its text, its id and its metadata, for every source that has rows."""

from __future__ import annotations

import math
from base64 import b64encode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from uuid import UUID

import orjson

from gguf_embed.errors import ConfigError
from gguf_embed.ingest.rows import BadRow
from gguf_embed.ingest.sources.base import SourceOptions

TEXT_NAMES = ("text", "content", "body", "document")
ID_NAMES = ("id", "_id", "doc_id", "uuid")

TEXT = "string"
"""The type in words of a field that can be the text."""

BETWEEN_TEXTS = "\n\n"
MAX_LISTED = 30

_WORDS: Mapping[type, str] = {
    str: TEXT,
    bool: "a boolean",
    int: "a number",
    float: "a number",
    Decimal: "a number",
    list: "a list",
    tuple: "a list",
    dict: "an object",
    bytes: "bytes",
}

Row = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Fields:
    """The chosen fields of a source."""

    text: tuple[str, ...]  # at least one
    id: str | None
    metadata: tuple[str, ...] | None  # None: all but text and id

    def needed(self, columns: Iterable[str]) -> list[str]:
        """Those of the columns that have to be read, in their order."""
        if self.metadata is None:
            return list(columns)
        used = {*self.text, self.id, *self.metadata}
        return [name for name in columns if name in used]

    def kept(self, columns: Iterable[str]) -> list[str]:
        """Those of the columns that are metadata, in the order in which they were asked for."""
        if self.metadata is None:
            return [name for name in columns if name not in self.text and name != self.id]
        there = set(columns)
        return [name for name in self.metadata if name in there]


def choose_fields(options: SourceOptions, columns: Mapping[str, str], where: str, *, fixed: bool = True) -> Fields:
    """From a source's columns: name → type in words, `TEXT` for strings.

    `fixed`: all rows have these columns. Otherwise they are those of the first rows: text and id must be among
    them, and metadata need not; without columns, nothing is known and the usual names are taken. Raises
    `ConfigError` that lists the columns.
    """
    metadata = None if "*" in options.metadata else tuple(dict.fromkeys(options.metadata))
    if not columns and not fixed:
        return Fields(options.text_fields or TEXT_NAMES[:1], options.id_field or ID_NAMES[0], metadata)
    asked = [*options.text_fields, *([options.id_field] if options.id_field else [])]
    if fixed:
        asked += [name for name in options.metadata if name != "*"]
    for name in asked:
        if name not in columns:
            raise ConfigError(f"{where} has no field {name!r}{_among_first(fixed)}: it has {_listed(columns)}")
    identity = options.id_field or next((name for name in ID_NAMES if name in columns), None)
    text = options.text_fields or (_only_text(columns, identity, where),)
    return Fields(text, identity, metadata)


def refuse_other_types(columns: Mapping[str, str], fields: Fields, where: str) -> None:
    """Raises `ConfigError` if a column with a text has another type. For sources whose columns have types."""
    for name in fields.text:
        if columns[name] != TEXT:
            raise ConfigError(
                f"the field {name!r} of {where} is {columns[name]}, not a string: it has {_listed(columns)}"
            )


def refuse_doubled(columns: Iterable[str], fields: Fields, where: str) -> None:
    """Raises `ConfigError` if a field that is text or id is there twice."""
    names = list(columns)
    for name in (*fields.text, fields.id):
        if name is not None and names.count(name) > 1:
            raise ConfigError(f"{where} has {names.count(name)} fields named {name!r}: rename all but one of them")


def columns_of(rows: Iterable[Row]) -> dict[str, str]:
    """Of rows without a schema: the fields that they have, and the type in words of the first value of each."""
    columns: dict[str, str] = {}
    for row in rows:
        for name, value in row.items():
            if value is not None:
                if columns.get(name, "null") == "null":
                    columns[name] = type_in_words(value)
            else:
                columns.setdefault(name, "null")
    return {name: TEXT if words == "null" else words for name, words in columns.items()}


def type_in_words(value: object) -> str:
    return _WORDS.get(value.__class__, f"of the type {value.__class__.__name__}")


def text_of(row: Row, names: tuple[str, ...]) -> str | BadRow:
    """The text of a row. Of several fields, those without a text are left out; one must have one."""
    if len(names) == 1:
        return one_text(row, names[0])
    texts: list[str] = []
    reasons: list[BadRow] = []
    for name in names:
        text = one_text(row, name)
        if isinstance(text, str):
            texts.append(text)
        elif isinstance(row.get(name), str | None):
            reasons.append(text)
        else:
            return text
    return BETWEEN_TEXTS.join(texts) if texts else reasons[0]


def one_text(row: Row, name: str) -> str | BadRow:
    """The string in this field, or what is wrong with it."""
    text = row.get(name)
    if isinstance(text, str):
        return BadRow(f"{name!r} is empty") if not text or text.isspace() else text
    if name not in row:
        return BadRow(f"has no field {name!r}")
    if text is None:
        return BadRow(f"{name!r} is null")
    return BadRow(f"{name!r} is {type_in_words(text)}, not a string")


def id_of(value: object, name: str) -> str | BadRow | None:
    """An id as text. None: null or an empty string."""
    if isinstance(value, str):
        return value or None
    if value is None:
        return None
    if isinstance(value, int | UUID) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, float | Decimal):
        if math.isfinite(value) and value == int(value):
            return str(int(value))
        return BadRow(f"{name!r} is {value}, not a string or an integer")
    return BadRow(f"{name!r} is {type_in_words(value)}, not a string or an integer")


def json_text(values: Row) -> str:
    """A JSON object: dates in ISO 8601, NaN as null, bytes as text or base64, what JSON has no form for as text."""
    try:
        return orjson.dumps(values, default=_plain, option=orjson.OPT_NON_STR_KEYS).decode()
    except TypeError:  # an integer above 64 bits, a lone surrogate, more than 254 levels
        return orjson.dumps({_readable(name): _dumpable(value) for name, value in values.items()}).decode()


def _plain(value: object) -> object:
    if isinstance(value, bytes | bytearray | memoryview):
        try:
            return bytes(value).decode()
        except UnicodeDecodeError:
            return b64encode(bytes(value)).decode()
    return _readable(value)


def _dumpable(value: object) -> object:
    try:
        return orjson.Fragment(orjson.dumps(value, default=_plain, option=orjson.OPT_NON_STR_KEYS))
    except TypeError:
        return _readable(value)


def _readable(value: object) -> str:
    """As text that has a UTF-8 form."""
    try:
        text = str(value)
    except RecursionError:
        text = f"<{type(value).__name__}>"
    return text.encode(errors="backslashreplace").decode()


def _only_text(columns: Mapping[str, str], identity: str | None, where: str) -> str:
    strings = [name for name, words in columns.items() if words == TEXT and name != identity]
    for name in TEXT_NAMES:
        if name in strings:
            return name
    if len(strings) == 1:
        return strings[0]
    if not strings:
        raise ConfigError(f"{where} has no field with strings: it has {_listed(columns)}")
    raise ConfigError(f"which field of {where} is the text? Name it, or several; it has {_listed(columns)}")


def _among_first(fixed: bool) -> str:
    return "" if fixed else " in its first rows"


def _listed(columns: Mapping[str, str]) -> str:
    """ "id (int64), title (string)"; only the names if all are strings."""
    if not columns:
        return "no fields"
    plain = all(words == TEXT for words in columns.values())
    shown = [repr(name) if plain else f"{name!r} ({words})" for name, words in columns.items()]
    more = f" and {len(shown) - MAX_LISTED} more" if len(shown) > MAX_LISTED else ""
    return ", ".join(shown[:MAX_LISTED]) + more
