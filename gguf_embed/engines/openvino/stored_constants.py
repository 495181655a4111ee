"""A graph's large constants in a temporary file instead of in memory.

OpenVINO packs matrices into the form that it multiplies with, and afterwards does not read the original ones again, but
keeps them. From a file, their pages can leave the memory, and come back should they be needed.
"""

from __future__ import annotations

import mmap
import sys
import tempfile
from typing import IO, Any

import numpy as np

from gguf_embed.engines.openvino.runtime import Node, op

MIN_BYTES = 2**16
"""Smaller constants stay in memory."""

TYPES = ("f32", "f16")
"""Those of matrices."""

ALIGNMENT = 64

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
        constants = [node for node in model.get_ops() if _is_large_constant(node)]
        if sys.platform != "linux" or not constants or sum(node.data.nbytes for node in constants) > MAX_BYTES:
            return cls()
        try:
            with tempfile.TemporaryFile(prefix="gguf-embed-") as file:
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
            self._pages.madvise(mmap.MADV_DONTNEED)


def _is_large_constant(node: Node) -> bool:
    is_constant = node.get_type_name() == "Constant" and node.get_output_element_type(0).get_type_name() in TYPES
    return is_constant and node.data.nbytes >= MIN_BYTES


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
    stored = op.constant(moved, shared_memory=True)
    for reader in node.output(0).get_target_inputs():
        reader.replace_source_output(stored.output(0))
