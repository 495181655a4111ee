"""The request's wish for another number type (`output_dtype` and its aliases), and vectors written in it.

Any of the names may be used on any endpoint that has this choice, and means the same there. Facts: Voyage and Mistral
say `output_dtype`, Cohere `embedding_types` (a list), Jina `embedding_type`, vLLM `embed_dtype`.
"""

from __future__ import annotations

import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np

from gguf_embed.errors import InvalidRequest
from gguf_embed.server.http.values import JsonObject, describe, optional_choice, optional_int
from gguf_embed.types import SCORES, TOKENS, FloatMatrix, OutputSpec
from gguf_embed.vectors import SmallMatrix, quantize

Dtype = Literal["float", "int8", "uint8", "binary", "ubinary"]

FIELDS = ("output_dtype", "embedding_types", "embedding_type", "embed_dtype")
_ANY_FIELD = frozenset(FIELDS)
TYPES = ("float", "base64", "int8", "uint8", "binary", "ubinary")
_SYNONYMS = {"float32": "float"}  # vLLM's word for it
_IN_UNIT_RANGE = frozenset({"int8", "uint8"})
_STAINLESS = "X-Stainless-Lang"
"""The header of openai's own clients, Python and Node."""


@dataclass(frozen=True, slots=True)
class OutputType:
    """One form of a vector in a reply."""

    name: str  # the request's word for it, and the reply's where there are several
    dtype: Dtype
    base64: bool  # of the raw bytes, little-endian for float32


def parse_output_types(body: JsonObject) -> tuple[OutputType, ...]:
    """What the request asks for, in its order; empty when no field asks for anything.

    `encoding_format` says whether the bytes come as base64; the type "base64" is float32 in base64. Raises
    `InvalidRequest` for an unknown word, an empty list, and two fields that contradict each other.
    """
    if _ANY_FIELD.isdisjoint(body):
        return ()
    asked = [(field, _words(body, field)) for field in FIELDS if body.get(field) is not None]
    if not asked:
        return ()
    first_field, words = asked[0]
    for field, other in asked[1:]:
        if set(other) != set(words):
            raise InvalidRequest(f'"{first_field}" and "{field}" ask for different types: send one of them', field)
    base64 = optional_choice(body, "encoding_format", ("float", "base64")) == "base64"
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
    """`dimensions`, or `output_dimension` as Voyage, Mistral and Cohere call it; None when neither is there."""
    one = optional_int(body, "dimensions", minimum=1)
    if body.get("output_dimension") is None:
        return one
    other = optional_int(body, "output_dimension", minimum=1)
    if one not in (None, other):
        raise InvalidRequest(
            f'"dimensions" is {one} and "output_dimension" is {other}: send one of them', "output_dimension"
        )
    return other


def check_output_types(types: Sequence[OutputType], output: OutputSpec, embd_normalize: int) -> None:
    """Refuse what would be cut off: int8 and uint8 hold numbers from -1 to 1 only. Raises `InvalidRequest`."""
    small = next((output for output in types if output.dtype != "float"), None)
    if output.kind == SCORES and small is not None:
        raise InvalidRequest(f'scores come as float, "{small.name}" is for vectors: ask for float', "output_dtype")
    found = next((output for output in types if output.dtype in _IN_UNIT_RANGE), None)
    if found is None:
        return
    if output.kind == TOKENS:
        raise InvalidRequest(
            f'token rows are not normalized, and "{found.name}" holds numbers from -1 to 1: '
            'ask for float, binary or ubinary, or for another "pooling"',
            "output_dtype",
        )
    if embd_normalize < 1:
        raise InvalidRequest(
            f'"{found.name}" holds numbers from -1 to 1, and embd_normalize {embd_normalize} gives larger ones: '
            'send "embd_normalize": 2, or ask for float',
            "embd_normalize",
        )


def check_decodable(types: Sequence[OutputType], headers: Mapping[str, str]) -> None:
    """Refuse what openai's clients would misread: unless told otherwise they ask for base64 and read float32 from it.

    openai-python and openai-node decode only what they asked for on their own, and that cannot be told from here.
    """
    if len(types) == 1 and types[0].base64 and types[0].dtype != "float" and _STAINLESS in headers:
        raise InvalidRequest(
            f"openai's client asks for base64 by itself and would read your {types[0].name} as float32: "
            'pass encoding_format="float" to get integers',
            "encoding_format",
        )


def write_rows(vectors: FloatMatrix, types: Sequence[OutputType]) -> Sequence[object]:
    """One JSON value per row of float32[n, d]: the row in the one type asked for, or an object with a key per type."""
    columns = [_write_column(vectors, output) for output in types]
    if len(columns) == 1:
        return columns[0]
    names = [output.name for output in types]
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def write_matrix(vectors: FloatMatrix, types: Sequence[OutputType]) -> object:
    """All rows of float32[n, d] as one JSON value: an array of rows, or an object with such an array per type."""
    if len(types) == 1:
        return _write_column(vectors, types[0])
    return {output.name: _write_column(vectors, output) for output in types}


def _write_column(vectors: FloatMatrix, output: OutputType) -> Sequence[object]:
    """Rows that orjson writes as numbers (it takes C-contiguous numpy arrays), or their bytes in base64."""
    rows: FloatMatrix | SmallMatrix
    rows = np.ascontiguousarray(vectors, "<f4") if output.dtype == "float" else quantize(vectors, output.dtype)
    if output.base64:
        return [binascii.b2a_base64(row, newline=False).decode("ascii") for row in rows]
    return list(rows)
