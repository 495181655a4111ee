"""Token embeddings read from a GGUF where they lie: what a pair's tokens begin as in a BERT with token types."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gguf_embed.errors import ModelFileError
from gguf_embed.gguf_file.header import GgufHeader, TensorInfo
from gguf_embed.types import FloatMatrix

_TABLE = "token_embd.weight"
_TYPES = "token_types.weight"


def has_token_types(header: GgufHeader) -> bool:
    """Whether the model tells a pair's second text from its first by a token type of its own."""
    types, table = header.tensors.get(_TYPES), header.tensors.get(_TABLE)
    return types is not None and table is not None and len(types.shape) == 2 and types.shape[1] >= 2


class PairRows:
    """Rows of the token table; those of a pair's second text with the difference of the two token types added.

    llama.cpp adds the first type to every token (src/models/bert.cpp), so the sum is what the original computes.
    Safe from any thread. The file must stay as it is.
    """

    def __init__(self, header: GgufHeader) -> None:
        """Maps the file's tensors; `has_token_types` must be true of it.

        Raises `ModelFileError` for a type of weights that cannot be read here.
        """
        types = _Rows(header, header.tensors[_TYPES]).take(np.arange(2))
        self._second = types[1] - types[0]
        self._table = _Rows(header, header.tensors[_TABLE])
        self.n_tokens = self._table.n_rows
        self.take(np.zeros(1, np.int64))  # an unknown type shows now

    def take(self, ids: NDArray[np.int64]) -> FloatMatrix:
        """float32[len(ids), n_embd]; id `n_tokens + i` is token i in the second text. All must be below 2 n_tokens."""
        is_second = ids >= self.n_tokens
        rows = self._table.take(np.where(is_second, ids - self.n_tokens, ids))
        rows[is_second] += self._second
        return rows


class _Rows:
    """One matrix of the file, of any type."""

    def __init__(self, header: GgufHeader, tensor: TensorInfo) -> None:
        self.n_rows = tensor.shape[1]
        shape = (self.n_rows, tensor.size_bytes // self.n_rows)
        begin = header.data_start + tensor.offset
        self._stored = np.memmap(header.path, np.uint8, "r", begin, shape).view(np.ndarray)
        self._type = tensor.type
        self._place = f"{header.path}, {tensor.name}"

    def take(self, ids: NDArray[np.int64]) -> FloatMatrix:
        rows = self._stored[ids]  # a copy
        if self._type == "F32":
            return rows.view("<f4")
        if self._type == "F16":
            return rows.view("<f2").astype(np.float32)
        return self._dequantized(rows)

    def _dequantized(self, rows: NDArray[np.uint8]) -> FloatMatrix:
        from gguf.constants import GGMLQuantizationType
        from gguf.quants import dequantize

        try:
            return np.ascontiguousarray(dequantize(rows, GGMLQuantizationType[self._type]), np.float32)
        except (KeyError, NotImplementedError) as error:
            raise ModelFileError(
                f"{self._place} is stored as {self._type}, which cannot be read here, and this reranker's pairs need "
                "it: use a file with another type of weights"
            ) from error
