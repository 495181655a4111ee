"""Parses the requested number types (`output_dtype` and its aliases), and formats vectors with them.

Every route that supports the field accepts all of its names in `aliases.OUTPUT_TYPES`.
"""

from __future__ import annotations

import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np

from gguf_embed.errors import InvalidRequest
from gguf_embed.server.fields import aliases
from gguf_embed.server.fields.field import Choice, Json, Shaped, Whole
from gguf_embed.server.http.values import JsonObject, describe
from gguf_embed.types import SCORES, TOKENS, FloatMatrix, OutputSpec
from gguf_embed.vectors import SmallMatrix, quantize

Dtype = Literal["float", "int8", "uint8", "binary", "ubinary"]

FIELDS = aliases.OUTPUT_TYPES
_ANY_FIELD = frozenset(FIELDS)
TYPES = ("float", "base64", "int8", "uint8", "binary", "ubinary")
_SYNONYMS = {"float32": "float"}  # vLLM's name
_WORD: Json = {"type": "string", "enum": [*TYPES, *_SYNONYMS]}
SCHEMAS: Json = {
    "OutputType": {
        "description": "One or several number types.",
        "anyOf": [_WORD, {"type": "array", "items": _WORD, "minItems": 1}],
    }
}
OUTPUT_TYPE = Shaped(
    FIELDS[0], "One or several number types.", also=FIELDS[1:], see="Output types", shape={"ref": "OutputType"}
)
ENCODING_FORMAT = Choice(
    "encoding_format",
    "`base64`: the bytes of the numbers, little-endian.",
    default='`"float"`',
    words=("float", "base64"),
)
DIMENSIONS = Whole(
    aliases.DIMENSIONS[0],
    "Keep the first N numbers and renormalize. More than the model has is a 400.",
    also=aliases.DIMENSIONS[1:],
    default="all",
    minimum=1,
)
IN_UNIT_RANGE = frozenset({"int8", "uint8"})
"""Number types that only represent numbers from -1 to 1."""
_STAINLESS = "X-Stainless-Lang"
"""A header that OpenAI's own clients send (Python and Node)."""


@dataclass(frozen=True, slots=True)
class OutputType:
    """One form of a vector in a reply."""

    name: str  # in the request, and in the reply if there are several types
    dtype: Dtype
    base64: bool  # of the raw bytes, little-endian for float32


def parse_output_types(body: JsonObject) -> tuple[OutputType, ...]:
    """The requested types, in the request's order; empty if it requests none.

    `encoding_format` decides whether numbers are sent as base64; the type "base64" is float32 in base64. Raises
    `InvalidRequest` for an unknown type, an empty list, and two fields that contradict each other.
    """
    if _ANY_FIELD.isdisjoint(body):
        return ()
    requested = [(field, _words(body, field)) for field in FIELDS if body.get(field) is not None]
    if not requested:
        return ()
    first_field, words = requested[0]
    for field, other in requested[1:]:
        if set(other) != set(words):
            raise InvalidRequest(f'"{first_field}" and "{field}" ask for different types: send only one of them', field)
    base64 = ENCODING_FORMAT.read(body) == "base64"
    return tuple(_output_type(word, base64) for word in words)


def _output_type(word: str, base64: bool) -> OutputType:
    return OutputType(word, "float", True) if word == "base64" else OutputType(word, cast(Dtype, word), base64)


def _words(body: JsonObject, field: str) -> tuple[str, ...]:
    """The types of one field, each once."""
    value = body[field]
    entries = value if isinstance(value, list) else [value]
    if not entries:
        raise InvalidRequest(f'"{field}" must not be empty: name a type, or leave the field out', field)
    return tuple(dict.fromkeys(_word(entry, field) for entry in entries))


def _word(value: object, field: str) -> str:
    word = value.lower() if isinstance(value, str) else ""
    word = _SYNONYMS.get(word, word)
    if word not in TYPES:
        listed = ", ".join(f'"{choice}"' for choice in TYPES)
        raise InvalidRequest(f'"{field}" must be one of {listed}, or a list of them, found {describe(value)}', field)
    return word


def parse_dimensions(body: JsonObject) -> int | None:
    """`dimensions`, by any of its names; None if all are absent."""
    names = DIMENSIONS.given(body)
    values = [DIMENSIONS.parse(body[name], name) for name in names]
    for name, value in zip(names, values, strict=True):
        if value != values[0]:
            raise InvalidRequest(f'"{names[0]}" is {values[0]} and "{name}" is {value}: send only one of them', name)
    return values[0] if values else None


def check_output_types(types: Sequence[OutputType], output: OutputSpec, embd_normalize: int) -> None:
    """Refuse types that would clip the output: int8 and uint8 only represent -1 to 1. Raises `InvalidRequest`."""
    small = next((output for output in types if output.dtype != "float"), None)
    if output.kind == SCORES and small is not None:
        raise InvalidRequest(
            f'"{small.name}" is only for vectors, and this output is scores: ask for float', "output_dtype"
        )
    found = next((output for output in types if output.dtype in IN_UNIT_RANGE), None)
    if found is None:
        return
    if output.kind == TOKENS:
        raise InvalidRequest(
            f'"{found.name}" only represents numbers from -1 to 1, and token vectors are not normalized: '
            'ask for float, binary or ubinary, or for another "pooling"',
            "output_dtype",
        )
    if embd_normalize < 1:
        raise InvalidRequest(
            f'"{found.name}" only represents numbers from -1 to 1, and "embd_normalize": {embd_normalize} gives larger '
            'ones: send "embd_normalize": 2, or ask for float',
            "embd_normalize",
        )


def check_decodable(types: Sequence[OutputType], headers: Mapping[str, str]) -> None:
    """Refuse replies that OpenAI's clients would misread: by default they request base64 and decode it as float32.

    openai-python and openai-node decode base64 only if they requested it by default, but the server cannot tell whether
    the user or the client set `encoding_format`.
    """
    if len(types) == 1 and types[0].base64 and types[0].dtype != "float" and _STAINLESS in headers:
        raise InvalidRequest(
            f"OpenAI's client requests base64 by default and would decode {types[0].name} as float32: "
            'pass encoding_format="float" to get integers',
            "encoding_format",
        )


def write_rows(vectors: FloatMatrix, types: Sequence[OutputType]) -> Sequence[object]:
    """One JSON value per row of float32[n, d]: the row itself for a single type, else an object with a key per type."""
    columns = [_write_column(vectors, output) for output in types]
    if len(columns) == 1:
        return columns[0]
    names = [output.name for output in types]
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def write_matrix(vectors: FloatMatrix, types: Sequence[OutputType]) -> object:
    """All rows of float32[n, d] as one JSON value: an array for one type, else an object with an array per type."""
    if len(types) == 1:
        return _write_column(vectors, types[0])
    return {output.name: _write_column(vectors, output) for output in types}


def _write_column(vectors: FloatMatrix, output: OutputType) -> Sequence[object]:
    """Rows as C-contiguous arrays, which orjson writes as numbers, or as base64 strings."""
    rows: FloatMatrix | SmallMatrix
    rows = np.ascontiguousarray(vectors, "<f4") if output.dtype == "float" else quantize(vectors, output.dtype)
    if output.base64:
        return [binascii.b2a_base64(row, newline=False).decode("ascii") for row in rows]
    return list(rows)
