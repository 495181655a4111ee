"""Where each metadata entry of a GGUF lies in the file, to read long arrays and to copy entries as they are."""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gguf_embed.errors import ModelFileError
from gguf_embed.gguf_file.constants import ARRAY, SCALAR_FORMATS, STRING
from gguf_embed.gguf_file.header import GgufHeader

_FIRST_ENTRY = 24  # magic, version, number of tensors, number of entries
_NUMBERS = {code: "<" + letter for code, letter in SCALAR_FORMATS.items()}


@dataclass(frozen=True, slots=True)
class Entry:
    """One metadata entry. Offsets are bytes in the file; `value` is where the value begins, after its type."""

    key: str
    type: int  # GGUF's number; ARRAY for an array
    item_type: int  # of an array's items; else the same as `type`
    n_items: int  # of an array; else 1
    begin: int
    value: int
    end: int


@dataclass(frozen=True, slots=True)
class Layout:
    """The header's parts. The tensor list goes from `tensors` to `tensors_end`; padding follows it."""

    entries: dict[str, Entry]
    tensors: int
    tensors_end: int


def read_layout(header: GgufHeader) -> Layout:
    """Walk over the header of a file that `read_header` has checked. Raises `ModelFileError` when it changed since."""
    try:
        with header.path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _walk(data)
    except (OSError, ValueError, struct.error, KeyError) as exc:
        raise ModelFileError(f"{header.path}: cannot be read again: it changed or was removed meanwhile") from exc


def read_strings(path: Path, entry: Entry) -> tuple[str, ...]:
    """An array of strings. Bytes that are not UTF-8 become lone surrogates: different strings stay different."""
    with path.open("rb") as file:
        file.seek(entry.value)
        data = file.read(entry.end - entry.value)
    strings, position = [], 0
    unpack_from = struct.Struct("<Q").unpack_from
    for _ in range(entry.n_items):
        size = unpack_from(data, position)[0]
        position += 8 + size
        strings.append(data[position - size : position].decode("utf-8", "surrogateescape"))
    return tuple(strings)


def read_numbers(path: Path, entry: Entry) -> NDArray[np.generic]:
    """An array of numbers, in its own type."""
    return np.fromfile(path, dtype=_NUMBERS[entry.item_type], count=entry.n_items, offset=entry.value)


def _walk(data: mmap.mmap) -> Layout:
    n_tensors, n_entries = struct.unpack_from("<QQ", data, 8)
    entries: dict[str, Entry] = {}
    position = _FIRST_ENTRY
    for _ in range(n_entries):
        entry = _read_entry(data, position)
        entries[entry.key] = entry
        position = entry.end
    tensors = position
    for _ in range(n_tensors):
        position = _skip_string(data, position)
        n_dims = struct.unpack_from("<I", data, position)[0]
        position += 4 + 8 * n_dims + 4 + 8
    return Layout(entries, tensors, position)


def _read_entry(data: mmap.mmap, begin: int) -> Entry:
    value = _skip_string(data, begin)
    key = data[begin + 8 : value].decode("utf-8", "replace")
    kind = struct.unpack_from("<I", data, value)[0]
    value += 4
    if kind != ARRAY:
        return Entry(key, kind, kind, 1, begin, value, _skip(data, value, kind, 1))
    item_kind, n_items = struct.unpack_from("<IQ", data, value)
    value += 12
    return Entry(key, ARRAY, item_kind, n_items, begin, value, _skip(data, value, item_kind, n_items))


def _skip(data: mmap.mmap, position: int, kind: int, n_items: int) -> int:
    if kind != STRING:
        return position + n_items * struct.calcsize(_NUMBERS[kind])
    for _ in range(n_items):
        position = _skip_string(data, position)
    return position


def _skip_string(data: mmap.mmap, position: int) -> int:
    return position + 8 + int(struct.unpack_from("<Q", data, position)[0])
