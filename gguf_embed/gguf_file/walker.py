"""Steps through a GGUF's header with bounds checks: the one place that knows the layout of metadata and tensors."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gguf_embed.gguf_file.constants import ARRAY, SCALAR_FORMATS, STRING

Scalar = str | int | float | bool
DecodeErrors = Literal["replace", "surrogateescape"]

_VERSION_POSITION = 4  # after the magic "GGUF"
_MAX_DIMS = 4
_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")
_SCALARS = {code: struct.Struct("<" + letter) for code, letter in SCALAR_FORMATS.items()}


class TruncatedHeader(Exception):
    """The header continues past the end of the file. Callers turn it into an error that names the file."""


class MalformedHeader(Exception):
    """The header contradicts the format; the text says where. Callers turn it into an error that names the file."""


@dataclass(frozen=True, slots=True)
class EntryHead:
    """One metadata entry up to its value. Offsets are bytes in the file; `value` is where the value begins."""

    key: str
    type: int  # GGUF's number; ARRAY for an array
    item_type: int  # of an array's items; otherwise the same as `type`
    n_items: int  # of an array; otherwise 1
    begin: int
    value: int


@dataclass(frozen=True, slots=True)
class TensorHead:
    """One item of the tensor list. `shape` has the fastest dimension first; `offset` counts from the data start."""

    name: str
    shape: tuple[int, ...]
    type_number: int
    offset: int


class HeaderWalker:
    """A position in a mapped GGUF. Every method reads or skips one item and stops right after it.

    Call in the file's order: `version`, two times `count` (tensors, metadata entries), then for each entry `entry` and
    one of `skip_value`, `scalars` and `strings`, then `tensor` for each tensor.
    All of them raise `TruncatedHeader` rather than read past the end of the file.
    """

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self.position = _VERSION_POSITION

    @property
    def magic(self) -> bytes:
        """The file's first four bytes, b"GGUF" in a GGUF."""
        return self._data[:4]

    def version(self) -> int:
        return self._number()

    def count(self) -> int:
        """A 64-bit number."""
        (value,) = _U64.unpack_from(self._data, self._advance(8))
        return int(value)

    def entry(self) -> EntryHead:
        """The next metadata entry; the position is then at its value."""
        begin = self.position
        key, kind = self._string(), self._number()
        if kind != ARRAY:
            return EntryHead(key, kind, kind, 1, begin, self.position)
        item_kind, n_items = self._number(), self.count()
        return EntryHead(key, ARRAY, item_kind, n_items, begin, self.position)

    def skip_value(self, entry: EntryHead) -> None:
        """Step over the value of an entry just read. Raises `MalformedHeader` for an unknown type."""
        if entry.item_type == STRING:
            self._skip_strings(entry.n_items)
        else:
            self._advance(entry.n_items * _scalar_of(entry.key, entry.item_type).size)

    def scalars(self, entry: EntryHead) -> Iterator[Scalar]:
        """The value or the items of an entry just read, one by one. Raises `MalformedHeader` for an unknown type."""
        for _ in range(entry.n_items):
            if entry.item_type == STRING:
                yield self._string()
            else:
                scalar = _scalar_of(entry.key, entry.item_type)
                value: Scalar = scalar.unpack_from(self._data, self._advance(scalar.size))[0]
                yield value

    def strings(self, n_items: int, errors: DecodeErrors) -> list[str]:
        """That many strings, as fast as Python can: a vocabulary has up to a million of them."""
        data, position, unpack_from = self._data, self.position, _U64.unpack_from
        found = []
        try:
            for _ in range(n_items):
                begin = position + 8
                position = begin + unpack_from(data, position)[0]
                found.append(data[begin:position].decode("utf-8", errors))
        except (struct.error, OverflowError) as exc:
            raise TruncatedHeader from exc
        self._advance(position - self.position)
        return found

    def tensor(self) -> TensorHead:
        """The next item of the tensor list. Raises `MalformedHeader` for more than 4 dimensions."""
        name, n_dims = self._string(), self._number()
        if n_dims > _MAX_DIMS:
            raise MalformedHeader(f"tensor {name!r} has {n_dims} dimensions")
        shape = tuple(self.count() for _ in range(n_dims))
        return TensorHead(name, shape, self._number(), self.count())

    def _number(self) -> int:
        (value,) = _U32.unpack_from(self._data, self._advance(4))
        return int(value)

    def _string(self) -> str:
        size = self.count()
        begin = self._advance(size)
        return self._data[begin : self.position].decode("utf-8", "replace")

    def _skip_strings(self, n_items: int) -> None:
        data, position, unpack_from = self._data, self.position, _U64.unpack_from
        try:
            for _ in range(n_items):
                position += 8 + unpack_from(data, position)[0]
        except (struct.error, OverflowError) as exc:
            raise TruncatedHeader from exc
        self._advance(position - self.position)

    def _advance(self, size: int) -> int:
        """Step over `size` bytes; returns where they begin."""
        begin = self.position
        if size > len(self._data) - begin:
            raise TruncatedHeader
        self.position = begin + size
        return begin


@contextmanager
def open_walker(path: Path) -> Iterator[HeaderWalker]:
    """Map the file for as long as the block runs. Raises `OSError`, and `ValueError` for an empty file."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        yield HeaderWalker(data)


def _scalar_of(key: str, kind: int) -> struct.Struct:
    if kind not in _SCALARS:
        raise MalformedHeader(f"metadata key {key!r} has the unknown value type {kind}")
    return _SCALARS[kind]
