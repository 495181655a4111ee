"""Steps through a GGUF's header with bounds checks: the one place that knows the layout of metadata and tensors."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import SEEK_END
from pathlib import Path
from typing import BinaryIO, Literal

from gguf_embed.gguf_file.constants import ARRAY, SCALAR_FORMATS, STRING

Scalar = str | int | float | bool
DecodeErrors = Literal["replace", "surrogateescape"]

_VERSION_POSITION = 4  # after the magic "GGUF"
_MAX_DIMS = 4

MAX_HEADER_BYTES = 256 * 2**20
"""A longer header is refused: that of a vocabulary of a million words with its merges has 60 MiB."""

MAX_STRINGS = 2**23
"""A longer list of strings is refused. Nothing in a GGUF has so many, and stepping over them takes half a second."""

_FIRST_BYTES = 2**16
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
    """A position in an open GGUF. Every method reads or skips one item and stops right after it.

    The file is read as far as needed, never mapped: a mapped file that is cut meanwhile would end the process.

    Call in the file's order: `version`, two times `count` (tensors, metadata entries), then for each entry `entry` and
    one of `skip_value`, `scalars` and `strings`, then `tensor` for each tensor.
    All of them raise `TruncatedHeader` rather than read past the end of the file, and `MalformedHeader` for a header
    of more than `MAX_HEADER_BYTES`.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._data = file.read(_FIRST_BYTES)
        self.position = _VERSION_POSITION

    @property
    def magic(self) -> bytes:
        """The file's first four bytes, b"GGUF" in a GGUF."""
        return self._data[:4]

    def version(self) -> int:
        return self._number()

    def count(self) -> int:
        """A 64-bit number."""
        begin = self._advance(8)
        (value,) = _U64.unpack_from(self._data, begin)
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
                begin = self._advance(scalar.size)
                value: Scalar = scalar.unpack_from(self._data, begin)[0]
                yield value

    def strings(self, n_items: int, errors: DecodeErrors) -> list[str]:
        """That many strings, as fast as Python can: a vocabulary has up to a million of them."""
        begin = self.position
        self._skip_strings(n_items)  # reads the file up to their end
        data, position, unpack_from = self._data, begin, _U64.unpack_from
        found = []
        for _ in range(n_items):
            begin = position + 8
            position = begin + unpack_from(data, position)[0]
            found.append(data[begin:position].decode("utf-8", errors))
        return found

    def tensor(self) -> TensorHead:
        """The next item of the tensor list. Raises `MalformedHeader` for more than 4 dimensions."""
        name, n_dims = self._string(), self._number()
        if n_dims > _MAX_DIMS:
            raise MalformedHeader(f"tensor {name!r} has {n_dims} dimensions")
        shape = tuple(self.count() for _ in range(n_dims))
        return TensorHead(name, shape, self._number(), self.count())

    def _number(self) -> int:
        begin = self._advance(4)
        (value,) = _U32.unpack_from(self._data, begin)
        return int(value)

    def _string(self) -> str:
        size = self.count()
        begin = self._advance(size)
        return self._data[begin : self.position].decode("utf-8", "replace")

    def _skip_strings(self, n_items: int) -> None:
        if n_items > MAX_STRINGS:
            least_end = self.position + 8 * n_items
            raise self._too_long(least_end, f"a list has {n_items} strings, the limit is {MAX_STRINGS}")
        unpack_from = _U64.unpack_from
        n_done = 0
        while n_done < n_items:
            data, position = self._data, self.position
            try:
                for n_done in range(n_done, n_items):  # noqa: B007, B020  # continues where it stopped
                    position += 8 + unpack_from(data, position)[0]
                n_done = n_items
            except (struct.error, OverflowError):  # the next length is beyond what was read
                self._read_to(position + 8)
            self._advance(position - self.position)

    def _advance(self, size: int) -> int:
        """Step over `size` bytes; returns where they begin."""
        begin = self.position
        if size > len(self._data) - begin:
            self._read_to(begin + size)
        self.position = begin + size
        return begin

    def _read_to(self, end: int) -> None:
        """Read the file at least up to `end`, and twice as much as before, so that few calls are needed."""
        n_read = len(self._data)
        if end <= n_read:
            return
        if end > MAX_HEADER_BYTES:
            raise self._too_long(end, f"its header has over {MAX_HEADER_BYTES:,} bytes, which is the limit")
        self._data += self._file.read(max(end, min(2 * n_read, MAX_HEADER_BYTES)) - n_read)
        if len(self._data) < end:
            raise TruncatedHeader

    def _too_long(self, end: int, problem: str) -> TruncatedHeader | MalformedHeader:
        """The error for something that would end at `end`."""
        self._file.seek(0, SEEK_END)
        return TruncatedHeader() if end > self._file.tell() else MalformedHeader(problem)


@contextmanager
def open_walker(path: Path) -> Iterator[HeaderWalker]:
    """Open the file for as long as the block runs. Raises `OSError`."""
    with path.open("rb") as file:
        yield HeaderWalker(file)


def _scalar_of(key: str, kind: int) -> struct.Struct:
    if kind not in _SCALARS:
        raise MalformedHeader(f"metadata key {key!r} has the unknown value type {kind}")
    return _SCALARS[kind]
