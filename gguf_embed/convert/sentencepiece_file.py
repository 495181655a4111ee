"""Reads a SentencePiece model file (`spiece.model`), which is a protocol buffer, without the package."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gguf_embed.errors import ModelFileError

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types
_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3  # fields of ModelProto
_UNIGRAM = 1
_MODEL_TYPE, _CHARSMAP = 3, 2  # fields of TrainerSpec and NormalizerSpec

Value = int | bytes


@dataclass(frozen=True, slots=True)
class SentencePieces:
    """A Unigram vocabulary."""

    pieces: tuple[str, ...]
    scores: tuple[float, ...]
    types: tuple[int, ...]  # 1 normal, 2 unknown, 3 control, 6 byte; the numbers are those of a GGUF
    charsmap: bytes  # compiled normalization rules; empty if there are none


def read_sentencepiece(path: Path) -> SentencePieces:
    """Raises `ModelFileError` for a file that is none, or that has another kind of vocabulary than Unigram."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelFileError(f"{path} cannot be read: {error.strerror or error}") from error
    pieces: list[tuple[str, float, int]] = []
    kind, charsmap = _UNIGRAM, b""
    try:
        for number, value in _fields(data):
            if number == _PIECES and isinstance(value, bytes):
                pieces.append(_piece(value))
            elif number == _TRAINER and isinstance(value, bytes):
                kind = next((v for n, v in _fields(value) if n == _MODEL_TYPE and isinstance(v, int)), _UNIGRAM)
            elif number == _NORMALIZER and isinstance(value, bytes):
                charsmap = next((v for n, v in _fields(value) if n == _CHARSMAP and isinstance(v, bytes)), b"")
    except (IndexError, struct.error, UnicodeDecodeError) as error:
        raise ModelFileError(f"{path} is not a SentencePiece model, or damaged") from error
    if kind != _UNIGRAM or not pieces:
        raise ModelFileError(f"{path} is a SentencePiece model of type {kind}, expected a Unigram one")
    texts, scores, types = zip(*pieces, strict=True)
    return SentencePieces(texts, scores, types, charsmap)


def _piece(data: bytes) -> tuple[str, float, int]:
    """Text, score and type; a normal piece has no type."""
    text, score, kind = "", 0.0, 1
    for number, value in _fields(data):
        if number == 1 and isinstance(value, bytes):
            text = value.decode()
        elif number == 2 and isinstance(value, bytes):
            (score,) = struct.unpack("<f", value)
        elif number == 3 and isinstance(value, int):
            kind = value
    return text, score, kind


def _fields(data: bytes) -> Iterator[tuple[int, Value]]:
    """Number and value of each field: a varint as an int, anything else as its bytes."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        wire = key & 7
        if wire == _VARINT:
            number, at = _varint(data, at)
            yield key >> 3, number
            continue
        size = {_FIXED64: 8, _FIXED32: 4}.get(wire)
        if size is None:
            if wire != _BYTES:
                raise IndexError(f"wire type {wire}")
            size, at = _varint(data, at)
        if at + size > len(data):
            raise IndexError("a field that continues past the end")
        yield key >> 3, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """The number, and where it ends."""
    number = shift = 0
    while True:
        byte = data[at]
        number |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return number, at
        if shift > 63:
            raise IndexError("a number of more than 64 bits")
