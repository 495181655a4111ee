"""A graph's large constants in a temporary file instead of in memory.

OpenVINO packs matrices into the form that it multiplies with, and keeps the original ones, which it hardly reads again.
From a file, their pages can leave the memory, and come back when they are read. The file is never that of the model,
because a mapped file that is overwritten ends the process.
"""

from __future__ import annotations

import mmap
import os
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import numpy as np

from gguf_embed.engines.openvino.runtime import Node, float_constants, op
from gguf_embed.engines.system_files import read_system_file

MIN_BYTES = 2**16
"""Smaller constants stay in memory."""

ALIGNMENT = 64

IN_MEMORY = ("tmpfs", "ramfs")
"""File systems from which nothing leaves the memory."""

FREE_FACTOR = 2
"""How much more than the constants must be free on the disk."""

MAX_BYTES = 2**30
"""Of all constants; more would fill a disk, and take longer to write than to compile."""


class StoredConstants:
    """The memory that a graph's large constants are in: pages of a file that has no name any more."""

    def __init__(self, pages: mmap.mmap | None = None) -> None:
        """None: all constants are in memory of their own."""
        self._pages = pages

    @classmethod
    def of(cls, model: Any) -> StoredConstants:
        """Move the large constants of a model, which is changed. They stay where they are if no file has room."""
        constants = [node for node in float_constants(model) if node.data.nbytes >= MIN_BYTES]
        n_bytes = sum(node.data.nbytes for node in constants)
        if sys.platform != "linux" or not constants or n_bytes > MAX_BYTES:
            return cls()
        try:
            with tempfile.TemporaryFile(prefix="gguf-embed-") as file:
                if not _has_room(file.fileno(), n_bytes):
                    return cls()
                begins = [_append(file, node.data) for node in constants]
                file.flush()
                pages = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE)
        except OSError:
            return cls()
        for node, begin in zip(constants, begins, strict=True):
            _move(node, pages, begin)
        return cls(pages)

    def release(self) -> None:
        """Take the pages out of the memory. Who reads them again gets them from the file. Any thread."""
        if self._pages is not None:
            with suppress(OSError):  # this process keeps all its pages in memory
                self._pages.madvise(mmap.MADV_DONTNEED)


def _has_room(descriptor: int, n_bytes: int) -> bool:
    """Whether the file is on a disk where others have room left, too."""
    system = os.fstatvfs(descriptor)
    return system.f_bavail * system.f_frsize >= FREE_FACTOR * n_bytes and not _is_in_memory(descriptor)


def _is_in_memory(descriptor: int) -> bool:
    device = os.fstat(descriptor).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    for line in read_system_file(Path("/proc/self/mountinfo")).splitlines():
        place, _, kind = line.partition(" - ")
        if place.split()[2] == number:
            return kind.split()[0] in IN_MEMORY
    return False


def _append(file: IO[bytes], values: np.ndarray) -> int:
    """Where the values begin in the file."""
    begin = -(-file.tell() // ALIGNMENT) * ALIGNMENT
    file.seek(begin)
    file.write(values.data)
    return begin


def _move(node: Node, pages: mmap.mmap, begin: int) -> None:
    """Replace a constant by one whose numbers begin there."""
    values = node.data
    moved = np.frombuffer(pages, values.dtype, values.size, begin).reshape(values.shape)
    node.output(0).replace(op.constant(moved, shared_memory=True).output(0))
