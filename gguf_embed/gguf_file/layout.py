"""The position of each metadata entry in a GGUF, to read arrays of numbers and to copy entries unchanged."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gguf_embed.errors import ModelFileError
from gguf_embed.gguf_file.constants import SCALAR_FORMATS
from gguf_embed.gguf_file.header import GgufHeader
from gguf_embed.gguf_file.walker import EntryHead, HeaderWalker, MalformedHeader, TruncatedHeader, open_walker


@dataclass(frozen=True, slots=True)
class MetadataEntry(EntryHead):
    """One metadata entry with the end of its value, in bytes from the beginning of the file."""

    end: int


@dataclass(frozen=True, slots=True)
class Layout:
    """The header's parts. The tensor list goes from `tensors` to `tensors_end`; padding follows it."""

    entries: dict[str, MetadataEntry]
    tensors: int
    tensors_end: int


def read_layout(header: GgufHeader) -> Layout:
    """Walk over the header of a file that `read_header` has checked. Raises `ModelFileError` if it changed since."""
    try:
        with open_walker(header.path) as walker:
            return _walk(walker)
    except (OSError, ValueError, TruncatedHeader, MalformedHeader) as exc:
        raise _changed(header.path) from exc


def read_numbers(path: Path, entry: MetadataEntry) -> NDArray[np.generic]:
    """An array of numbers, in its own type. Raises `ModelFileError` if the file has changed since `read_layout`."""
    dtype = "<" + SCALAR_FORMATS[entry.item_type]
    try:
        numbers = np.fromfile(path, dtype=dtype, count=entry.n_items, offset=entry.value)
    except OSError as exc:
        raise _changed(path) from exc
    if len(numbers) < entry.n_items:
        raise _changed(path)
    return numbers


def read_number_arrays(header: GgufHeader, keys: Collection[str]) -> dict[str, NDArray[np.generic]]:
    """The arrays under `keys`, one-dimensional, in the types of the file; those that it does not have are left out.

    Raises `ModelFileError` for an array of anything but numbers, and when the file has changed since it was checked.
    """
    entries = [entry for key, entry in read_layout(header).entries.items() if key in keys]
    for entry in entries:
        if entry.item_type not in SCALAR_FORMATS:
            raise ModelFileError(f"{header.path}: {entry.key} is not a list of numbers; convert the model again")
    return {entry.key: read_numbers(header.path, entry) for entry in entries}


def _changed(path: Path) -> ModelFileError:
    return ModelFileError(f"{path} cannot be read again: it was changed or removed in the meantime")


def _walk(walker: HeaderWalker) -> Layout:
    walker.version()
    n_tensors, n_entries = walker.count(), walker.count()
    entries: dict[str, MetadataEntry] = {}
    for _ in range(n_entries):
        head = walker.entry()
        walker.skip_value(head)
        entries[head.key] = MetadataEntry(
            head.key, head.type, head.item_type, head.n_items, head.begin, head.value, end=walker.position
        )
    tensors = walker.position
    for _ in range(n_tensors):
        walker.tensor()
    return Layout(entries, tensors, walker.position)
