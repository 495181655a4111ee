"""Memory that two processes share for a batch's rows. It has no name, so none is left behind when both have ended."""

from __future__ import annotations

import contextlib
import mmap
import os
import tempfile
from dataclasses import dataclass

import numpy as np

from gguf_embed.types import FloatMatrix
from gguf_embed.vectors import Rows

KEPT_BYTES = 2**20
"""What stays in memory between two batches; the rest of a large one goes back to the system."""


@dataclass(frozen=True, slots=True)
class RowsInMemory:
    """Rows whose matrix is at the beginning of the shared memory."""

    kind: str
    shape: tuple[int, int]
    offsets: tuple[int, ...] | range


def create(n_bytes: int) -> int:
    """The descriptor of new memory. Only what is written takes memory. Raises `OSError`."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("gguf-embed-rows")
    else:
        with tempfile.TemporaryFile() as file:  # its name is gone at once
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, max(1, n_bytes))
    return descriptor


class SharedRows:
    """One process's view of the memory. One thread."""

    def __init__(self, descriptor: int) -> None:
        """Takes the descriptor over."""
        self._n_bytes = os.fstat(descriptor).st_size
        self._map = mmap.mmap(descriptor, self._n_bytes)
        os.close(descriptor)

    def write(self, rows: Rows) -> RowsInMemory | None:
        """Store the matrix. None if it does not fit."""
        matrix = rows.matrix
        if matrix.nbytes > self._n_bytes or matrix.ndim != 2:
            return None
        np.frombuffer(self._map, np.float32, matrix.size).reshape(matrix.shape)[:] = matrix
        offsets = rows.offsets if isinstance(rows.offsets, range) else tuple(rows.offsets)
        return RowsInMemory(rows.kind, matrix.shape, offsets)

    def read(self, stored: RowsInMemory) -> Rows:
        """A copy of what the other process has stored. Raises `ValueError` for more than the memory holds."""
        n_rows, n_dims = stored.shape
        matrix: FloatMatrix = np.frombuffer(self._map, np.float32, n_rows * n_dims).reshape(stored.shape).copy()
        if matrix.nbytes > KEPT_BYTES and hasattr(mmap, "MADV_REMOVE"):
            with contextlib.suppress(OSError):
                self._map.madvise(mmap.MADV_REMOVE)
        return Rows(stored.kind, matrix, stored.offsets)

    def close(self) -> None:
        self._map.close()
