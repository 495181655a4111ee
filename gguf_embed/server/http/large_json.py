"""Parses large JSON objects in parts, so that no call keeps other threads waiting for long. Pure; any thread.

A parser holds the interpreter's lock from its first byte to its last. Here numpy, which releases the lock, finds where
the long arrays of an object can be cut; then each part is parsed by itself.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import orjson

from gguf_embed.errors import InvalidRequest, PayloadTooLarge, WayOut
from gguf_embed.server.http.json_text import (
    BYTE_ORDER_MARKS,
    as_object,
    not_utf8,
    without_lone_surrogates,
    without_mark,
)
from gguf_embed.server.http.values import JsonObject

PART_BYTES = 2**18
"""The size of a part: about a millisecond of parsing."""

MIN_INPUTS = 2048
VALUES_PER_INPUT, CONTAINERS_PER_INPUT = 600, 50
"""How many JSON values, and how many arrays and objects, a large body may have for each input that a request may have.

A value of two bytes takes up to 64 in memory, an object of eight up to 232.
"""

MAX_REPAIRED_BYTES = 2**24
"""Lone surrogates are repaired in parts up to this size. A larger part holds a text over any model's limit."""

_ESCAPE = re.compile(rb"\\.", re.DOTALL)
_QUOTE, _COMMA, _OPEN, _CLOSE = b'",{}'
_TO_BRACES = 0x20  # this bit makes "{" of "[", and "}" of "]"

Positions = npt.NDArray[np.int64]
Marks = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class LongArray:
    """An array that is the value of a field: where its content begins and ends."""

    begin: int
    end: int
    commas: Positions  # between its entries


def parse_large_object(raw: bytearray, max_inputs: int, *, is_nested: bool = False) -> JsonObject:
    """What `orjson.loads` returns. Raises `InvalidRequest`, or `PayloadTooLarge` for too many values.

    `raw` is changed: a copy of it would double the memory. `is_nested`: its fields may be objects with long arrays.
    """
    if raw.startswith(BYTE_ORDER_MARKS):
        raw = bytearray(without_mark(raw))
    arrays = find_long_arrays(raw, max(max_inputs, MIN_INPUTS), is_nested=is_nested)
    if not arrays:
        return as_object(_parse(raw, 0))
    placeholder = secrets.token_hex(16)  # a client cannot know it
    pieces: list[bytes | bytearray] = []
    at = 0
    for index, array in enumerate(arrays):
        pieces += raw[at : array.begin - 1], f'"{placeholder}{index}"'.encode()
        at = array.end + 1
    found = as_object(_parse(b"".join([*pieces, raw[at:]]), None))
    return _with_arrays(found, raw, placeholder, arrays, is_nested)


def _with_arrays(
    found: JsonObject, raw: bytearray, placeholder: str, arrays: Sequence[LongArray], is_nested: bool
) -> JsonObject:
    """The object with the arrays that placeholders stand for, also in its fields' objects if it `is_nested`."""
    if any(name.startswith(placeholder) for name in found):
        raise InvalidRequest("the body is not valid JSON: an array is where the name of a field should be")
    whole: dict[str, object] = {}
    for name, value in found.items():
        if isinstance(value, str) and value.startswith(placeholder):
            whole[name] = _parse_array(raw, arrays[int(value.removeprefix(placeholder))])
        elif is_nested and isinstance(value, dict):
            whole[name] = _with_arrays(value, raw, placeholder, arrays, False)
        else:
            whole[name] = value
    return whole


def _parse_array(raw: bytearray, array: LongArray) -> list[object]:
    """Brackets take the place of the commas around each part."""
    entries: list[object] = []
    parts = list(_parts(array))
    for begin, end in parts:
        raw[begin - 1], raw[end] = b"[]"
        some = _parse(memoryview(raw)[begin - 1 : end + 1], begin - 1)
        assert isinstance(some, list)
        if not some and len(parts) > 1:
            raise InvalidRequest(f"the body is not valid JSON: there is no value before byte {end}")
        entries += some
    return entries


def _parts(array: LongArray) -> Iterator[tuple[int, int]]:
    """Where each part begins and ends: at commas that are `PART_BYTES` apart, or more where an entry is longer."""
    begin = array.begin
    while begin <= array.end:
        after = np.searchsorted(array.commas, begin + PART_BYTES)
        end = int(array.commas[after]) if after < len(array.commas) else array.end
        yield begin, end
        begin = end + 1


def _parse(part: bytes | bytearray | memoryview, begin: int | None) -> object:
    """Parse a part, which begins at byte `begin` of the body; None: its positions are not those of the body."""
    try:
        return orjson.loads(part)
    except orjson.JSONDecodeError as exc:
        plain = bytes(part)
        may_repair = len(plain) <= MAX_REPAIRED_BYTES and b"\\u" in plain
        repaired = without_lone_surrogates(plain) if may_repair else plain
        if repaired == plain:
            raise _malformed(plain, begin, exc) from exc
    try:
        return orjson.loads(repaired)
    except orjson.JSONDecodeError as exc:
        raise _malformed(repaired, begin, exc) from exc


def _malformed(part: bytes, begin: int | None, error: orjson.JSONDecodeError) -> InvalidRequest:
    if begin is None:
        return InvalidRequest(f"the body is not valid JSON: {error.msg}")
    place = begin + len(error.doc[: error.pos].encode("utf-8", "replace"))
    return not_utf8(part, begin) or InvalidRequest(f"the body is not valid JSON: {error.msg} at byte {place}")


def find_long_arrays(raw: bytes | bytearray, max_inputs: int, *, is_nested: bool = False) -> list[LongArray]:
    """The arrays over `PART_BYTES` that are values of the object's fields; if it `is_nested`, also of the fields of
    objects that are values of its fields. Sorted by their place.

    Raises `PayloadTooLarge` as soon as there are more values than a valid request can have.
    """
    borders = [_Borders(2), _Borders(3)] if is_nested else [_Borders(2)]
    survey = _Survey(VALUES_PER_INPUT * max_inputs, CONTAINERS_PER_INPUT * max_inputs, borders)
    view = memoryview(raw)
    begin = 0
    while begin < len(raw):
        part = bytes(view[begin : begin + PART_BYTES])
        if survey.in_string and not part.endswith(b"\\") and b'"' not in part:
            begin += len(part)  # the middle of a long text
            continue
        clean = _ESCAPE.sub(b"  ", part)
        if clean.endswith(b"\\") and begin + len(part) < len(raw):  # what it escapes is in the next part
            part = bytes(view[begin : begin + len(part) - 1])
            clean = clean[:-1]
        survey.add(begin, np.frombuffer(clean, np.uint8))
        begin += len(part)
    return _long_arrays(raw, borders)


def _long_arrays(raw: bytes | bytearray, borders: Sequence[_Borders]) -> list[LongArray]:
    found = list(borders[0].long_arrays(raw))
    if len(borders) > 1:
        outer = np.concatenate(borders[0].opens)
        for array in borders[1].long_arrays(raw):
            parent = int(outer[np.searchsorted(outer, array.begin) - 1])
            if raw[parent : parent + 1] == b"{":
                found.append(array)
    return sorted(found, key=lambda array: array.begin)


@dataclass(slots=True)
class _Borders:
    """Where the arrays and objects of one depth begin and end, and where their entries do."""

    depth: int
    opens: list[Positions] = field(default_factory=list)
    closes: list[Positions] = field(default_factory=list)
    commas: list[Positions] = field(default_factory=list)

    def add(self, begin: int, depth: Positions, opens: Marks, closes: Marks, commas: Marks) -> None:
        """Note those of one part, which begins at byte `begin`. `depth`: after each of its bytes."""
        self.opens.append(np.flatnonzero(opens & (depth == self.depth)) + begin)
        self.closes.append(np.flatnonzero(closes & (depth == self.depth - 1)) + begin)
        self.commas.append(np.flatnonzero(commas & (depth == self.depth)) + begin)

    def long_arrays(self, raw: bytes | bytearray) -> Iterator[LongArray]:
        opens, closes, commas = (np.concatenate(found) for found in (self.opens, self.closes, self.commas))
        n_pairs = min(len(opens), len(closes))  # the last one of a body that is not complete has no end
        for at in np.flatnonzero(closes[:n_pairs] - opens[:n_pairs] > PART_BYTES):
            begin, end = int(opens[at]) + 1, int(closes[at])
            if raw[begin - 1 : begin] == b"[" and raw[end : end + 1] == b"]":
                between = commas[np.searchsorted(commas, begin) : np.searchsorted(commas, end)]
                yield LongArray(begin, end, between)


@dataclass(slots=True)
class _Survey:
    """Reads one part after the other, without escapes, and notes the borders at some depths."""

    max_values: int
    max_containers: int
    borders: Sequence[_Borders]
    depth: int = 0
    in_string: bool = False
    n_values: int = 0
    n_containers: int = 0

    def add(self, begin: int, part: npt.NDArray[np.uint8]) -> None:
        inside = np.logical_xor.accumulate(part == _QUOTE)
        if self.in_string:
            np.logical_not(inside, out=inside)
        self.in_string = bool(inside[-1])
        part = np.where(inside, np.uint8(0), part)
        braces = part | _TO_BRACES
        opens, closes, commas = braces == _OPEN, braces == _CLOSE, part == _COMMA
        n_opens = int(np.count_nonzero(opens))
        self._count(n_opens + int(np.count_nonzero(commas)), n_opens)
        depth = np.cumsum(opens.view(np.int8) - closes.view(np.int8), dtype=np.int64)
        depth += self.depth
        self.depth = int(depth[-1])
        for border in self.borders:
            border.add(begin, depth, opens, closes, commas)

    def _count(self, n_values: int, n_containers: int) -> None:
        self.n_values += n_values
        self.n_containers += n_containers
        if self.n_values > self.max_values:
            raise _too_many(f"{self.max_values:,} values")
        if self.n_containers > self.max_containers:
            raise _too_many(f"{self.max_containers:,} arrays and objects")


def _too_many(what: str) -> PayloadTooLarge:
    return PayloadTooLarge(f"the body has more than {what}, the limit for one request", [WayOut.FEWER_INPUTS])
