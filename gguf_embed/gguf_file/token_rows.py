"""Token embeddings read directly from a GGUF, a few rows at a time; with token types for pairs of texts."""

from __future__ import annotations

import os
import threading
import weakref
from math import prod

import numpy as np
from numpy.typing import NDArray

from gguf_embed.errors import EngineFailure, ModelFileError
from gguf_embed.gguf_file.dequantize import dequantized, read_tensor, to_float32
from gguf_embed.gguf_file.header import GgufHeader, TensorInfo
from gguf_embed.types import FloatMatrix

_TABLE = "token_embd.weight"
_TYPES = "token_types.weight"

UNPACKED_BYTES = 256 * 2**20
"""A table in a type that is slow to dequantize row by row is converted to float32 in memory, up to this size."""

KEPT_BYTES = 16 * 2**20
"""A table up to this size is kept in memory as it is stored. Of a larger one, rows are read from the file when they are
first needed, which takes a microsecond each, and as many are kept. It is never mapped, because a mapped file that is
overwritten ends the process."""

_FAST_TYPES = ("F32", "F16", "BF16", "Q8_0")


def has_token_types(header: GgufHeader) -> bool:
    """Whether the model has separate token types for the first and the second text of a pair."""
    types, table = header.tensors.get(_TYPES), header.tensors.get(_TABLE)
    return types is not None and table is not None and len(types.shape) == 2 and types.shape[1] >= 2


def table_bytes(table: TensorInfo) -> int:
    """The memory that `TokenRows` takes for a table once many of its rows were needed."""
    if _is_unpacked(table):
        return 4 * prod(table.shape)
    return min(table.size_bytes, KEPT_BYTES) if hasattr(os, "pread") else table.size_bytes


def _is_unpacked(table: TensorInfo) -> bool:
    return table.type not in _FAST_TYPES and 4 * prod(table.shape) <= UNPACKED_BYTES


class TokenRows:
    """Rows of the token table, float32. Safe from any thread."""

    def __init__(self, header: GgufHeader) -> None:
        """Reads or opens the file. Raises `ModelFileError` for a type of weights that cannot be dequantized."""
        tensor = header.tensors[_TABLE]
        self.n_embd, self.n_tokens = tensor.shape
        self._label = f"{header.path}: tensor {tensor.name}"
        self._type = tensor.type
        self._stored: NDArray[np.uint8] | _FileRows
        if _is_unpacked(tensor):
            self._stored, self._type = dequantized(header, tensor).view(np.uint8), "F32"
        elif tensor.size_bytes <= KEPT_BYTES or not hasattr(os, "pread"):  # Windows has none
            self._stored = read_tensor(header, tensor)
        else:
            self._stored = _FileRows(header, tensor)
        self.take(np.zeros(1, np.int64))  # fails now for an unsupported type

    def take(self, ids: NDArray[np.int64]) -> FloatMatrix:
        """float32[len(ids), n_embd]. All ids are below `n_tokens`.

        Raises `EngineFailure` if a row must be read from the file, and the file has changed.
        """
        return to_float32(self._stored[ids], self._type, self._label)  # indexing makes a copy


class _FileRows:
    """Rows of a tensor, read from an open file when they are first needed. Safe from any thread."""

    def __init__(self, header: GgufHeader, tensor: TensorInfo) -> None:
        try:
            self._file = os.open(header.path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        except OSError as error:
            raise ModelFileError(f"{header.path} cannot be read: {error.strerror or error}") from error
        weakref.finalize(self, os.close, self._file)
        self._name = header.path.name
        self._begin = header.data_start + tensor.offset
        n_rows = tensor.shape[1]
        self._row_bytes = tensor.size_bytes // n_rows
        self._state = self._current_state()
        self._kept = np.empty((max(1, KEPT_BYTES // self._row_bytes), self._row_bytes), np.uint8)
        self._places = np.full(n_rows, -1, np.int32)  # of each row in `_kept`; -1: not kept
        self._n_kept = 0
        # For keeping rows. Reading them needs no lock, because a row is there before its place is, and never moves.
        self._lock = threading.Lock()

    def _current_state(self) -> tuple[int, int]:
        found = os.fstat(self._file)
        return found.st_size, found.st_mtime_ns

    def __getitem__(self, ids: NDArray[np.int64]) -> NDArray[np.uint8]:
        """uint8[len(ids), bytes per row].

        Raises `EngineFailure` if one must be read, and the file is not what it was when it was opened.
        """
        places = self._places[ids]
        rows = self._kept[places]
        missing = np.flatnonzero(places < 0)
        if len(missing):
            rows[missing] = self._read_and_keep(ids[missing])
        return rows

    def _read_and_keep(self, ids: NDArray[np.int64]) -> NDArray[np.uint8]:
        tokens, numbers = np.unique(ids, return_inverse=True)
        rows = self._read(tokens)
        with self._lock:
            new = np.flatnonzero(self._places[tokens] < 0)[: len(self._kept) - self._n_kept]
            end = self._n_kept + len(new)
            self._kept[self._n_kept : end] = rows[new]
            self._places[tokens[new]] = np.arange(self._n_kept, end, dtype=np.int32)
            self._n_kept = end
        return rows[numbers]

    def _read(self, ids: NDArray[np.int64]) -> NDArray[np.uint8]:
        size, begin, file = self._row_bytes, self._begin, self._file
        data = b"".join([os.pread(file, size, begin + size * token) for token in ids.tolist()])
        if self._current_state() != self._state or len(data) != size * len(ids):
            raise EngineFailure(f"{self._name} was overwritten while the model was running: load the model again")
        return np.frombuffer(data, np.uint8).reshape(len(ids), size)


class PairRows:
    """Rows of the token table; for a pair's second text, the difference of the two token types is added.

    llama.cpp adds the first type to every token (src/models/bert.cpp), so the sum equals what the original computes.
    Safe from any thread.
    """

    def __init__(self, header: GgufHeader) -> None:
        """Reads the file's tensors. `has_token_types` must be true for it.

        Raises `ModelFileError` for a type of weights that cannot be dequantized.
        """
        types = dequantized(header, header.tensors[_TYPES])
        self._second = types[1] - types[0]
        self._table = TokenRows(header)
        self.n_tokens = self._table.n_tokens

    def take(self, ids: NDArray[np.int64]) -> FloatMatrix:
        """float32[len(ids), n_embd]. Id `n_tokens + i` is token i in the second text; all are below 2 n_tokens."""
        is_second = ids >= self.n_tokens
        rows = self._table.take(np.where(is_second, ids - self.n_tokens, ids))
        rows[is_second] += self._second
        return rows
