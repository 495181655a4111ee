"""From Arrow columns to documents, without a dict per row."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from gguf_embed.ingest.rows import BadRow, DocumentBatch
from gguf_embed.ingest.sources.base import SourceOptions
from gguf_embed.ingest.sources.fields import (
    TEXT,
    Fields,
    choose_fields,
    id_of,
    json_text,
    refuse_doubled,
    refuse_other_types,
    text_of,
)

NOT_UTF8 = "is not UTF-8"


def arrow_fields(schema: pa.Schema, options: SourceOptions, where: str) -> Fields:
    """Raises `ConfigError` that lists the columns and their types."""
    columns = {field.name: _type_in_words(field.type) for field in schema}
    fields = choose_fields(options, columns, where)
    refuse_other_types(columns, fields, where)
    refuse_doubled(schema.names, fields, where)
    return fields


def arrow_documents(batch: pa.RecordBatch, fields: Fields, name: str, first_row: int) -> DocumentBatch:
    """Places are "<name>:<number of the row>"; the batch's first row has the number `first_row`."""
    columns = {column: _values(batch.column(column)) for column in fields.needed(batch.schema.names)}
    texts = _texts(columns, fields, batch.num_rows)
    ids: Sequence[str | None] = [None] * batch.num_rows
    if fields.id is not None:
        ids = _ids(columns[fields.id], fields.id, texts)
    kept = fields.kept(columns)
    metadata = ["{}"] * batch.num_rows
    if kept:
        rows = zip(*(columns[column] for column in kept), strict=True)
        metadata = [json_text(dict(zip(kept, row, strict=True))) for row in rows]
    places = [f"{name}:{number}" for number in range(first_row, first_row + batch.num_rows)]
    return DocumentBatch(ids, texts, metadata, places)


def _texts(columns: dict[str, list[object]], fields: Fields, n_rows: int) -> list[str | BadRow]:
    names = fields.text
    if len(names) == 1:
        name = names[0]
        return [
            text if isinstance(text, str) and text and not text.isspace() else _bad_text(name, text)
            for text in columns[name]
        ]
    rows = zip(*(columns[name] for name in names), strict=True)
    return [text_of(dict(zip(names, row, strict=True)), names) for row in rows]


def _bad_text(name: str, value: object) -> str | BadRow:
    return BadRow(f"{name!r} {NOT_UTF8}") if isinstance(value, bytes) else text_of({name: value}, (name,))


def _ids(values: list[object], name: str, texts: list[str | BadRow]) -> list[str | None]:
    """A value that cannot be an id turns its text into a `BadRow`."""
    ids: list[str | None] = []
    for index, value in enumerate(values):
        identity = id_of(value, name)
        if isinstance(identity, BadRow):
            texts[index] = identity
            identity = None
        ids.append(identity)
    return ids


def _values(column: pa.Array) -> list[object]:
    """As Python objects; strings that are not UTF-8 as bytes."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    coarse = _in_microseconds(column.type)
    if coarse != column.type:
        column = column.cast(coarse, safe=False)
    try:
        return list(column.to_pylist())
    except UnicodeDecodeError:
        return [_string_or_bytes(value) for value in column]


def _string_or_bytes(value: pa.Scalar) -> object:
    try:
        return value.as_py()
    except UnicodeDecodeError:
        return value.as_buffer().to_pybytes() if hasattr(value, "as_buffer") else str(value).encode()


def _in_microseconds(kind: pa.DataType) -> pa.DataType:
    """The same type without nanoseconds, which Python's dates do not have."""
    if pa.types.is_timestamp(kind) and kind.unit == "ns":
        return pa.timestamp("us", kind.tz)
    if pa.types.is_time(kind) and kind.unit == "ns":
        return pa.time64("us")
    if pa.types.is_duration(kind) and kind.unit == "ns":
        return pa.duration("us")
    if pa.types.is_list(kind):
        return pa.list_(kind.value_field.with_type(_in_microseconds(kind.value_type)))
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_in_microseconds(field.type)) for field in kind])
    return kind


def _type_in_words(kind: pa.DataType) -> str:
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    strings = pa.types.is_string(value) or pa.types.is_large_string(value) or pa.types.is_string_view(value)
    return TEXT if strings else str(kind)
