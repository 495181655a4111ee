"""Token embeddings read directly from a GGUF, a few rows at a time; with token types for pairs of texts."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gguf_embed.gguf_file.dequantize import dequantized, map_tensor, to_float32
from gguf_embed.gguf_file.header import GgufHeader
from gguf_embed.types import FloatMatrix

_TABLE = "token_embd.weight"
_TYPES = "token_types.weight"

UNPACKED_BYTES = 256 * 2**20
"""A table in a type that is slow to dequantize row by row is converted to float32 in memory, up to this size."""

_FAST_TYPES = ("F32", "F16", "BF16", "Q8_0")


def has_token_types(header: GgufHeader) -> bool:
    """Whether the model has separate token types for the first and the second text of a pair."""
    types, table = header.tensors.get(_TYPES), header.tensors.get(_TABLE)
    return types is not None and table is not None and len(types.shape) == 2 and types.shape[1] >= 2


class TokenRows:
    """Rows of the token table, float32. Safe from any thread. The file must not change."""

    def __init__(self, header: GgufHeader) -> None:
        """Maps the file's tensor. Raises `ModelFileError` for a type of weights that cannot be dequantized."""
        tensor = header.tensors[_TABLE]
        self.n_embd, self.n_tokens = tensor.shape
        self._label = f"{header.path}: tensor {tensor.name}"
        self._type = tensor.type
        self._stored = map_tensor(header, tensor)
        if tensor.type not in _FAST_TYPES and 4 * self.n_embd * self.n_tokens <= UNPACKED_BYTES:
            self._stored, self._type = dequantized(header, tensor).view(np.uint8), "F32"
        self.take(np.zeros(1, np.int64))  # fails now for an unsupported type

    def take(self, ids: NDArray[np.int64]) -> FloatMatrix:
        """float32[len(ids), n_embd]. All ids are below `n_tokens`."""
        return to_float32(self._stored[ids], self._type, self._label)  # indexing makes a copy


class PairRows:
    """Rows of the token table; for a pair's second text, the difference of the two token types is added.

    llama.cpp adds the first type to every token (src/models/bert.cpp), so the sum equals what the original computes.
    Safe from any thread. The file must not change.
    """

    def __init__(self, header: GgufHeader) -> None:
        """Maps the file's tensors. `has_token_types` must be true for it.

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
