"""Token embeddings read directly from a GGUF: the input rows for pairs of texts in a BERT with token types."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gguf_embed.errors import ModelFileError
from gguf_embed.gguf_file.header import GgufHeader, TensorInfo
from gguf_embed.types import FloatMatrix

_TABLE = "token_embd.weight"
_TYPES = "token_types.weight"


def has_token_types(header: GgufHeader) -> bool:
    """Whether the model has separate token types for the first and the second text of a pair."""
    types, table = header.tensors.get(_TYPES), header.tensors.get(_TABLE)
    return types is not None and table is not None and len(types.shape) == 2 and types.shape[1] >= 2


class PairRows:
    """Rows of the token table; for a pair's second text, the difference of the two token types is added.

    llama.cpp adds the first type to every token (src/models/bert.cpp), so the sum equals what the original computes.
    Safe from any thread. The file must not change.
    """

    def __init__(self, header: GgufHeader) -> None:
        """Maps the file's tensors. `has_token_types` must be true for it.

        Raises `ModelFileError` for a type of weights that cannot be dequantized.
        """
        types = _Rows(header, header.tensors[_TYPES]).take(np.arange(2))
        self._second = types[1] - types[0]
        self._table = _Rows(header, header.tensors[_TABLE])
        self.n_tokens = self._table.n_rows
        self.take(np.zeros(1, np.int64))  # fails now for an unsupported type

    def take(self, ids: NDArray[np.int64]) -> FloatMatrix:
        """float32[len(ids), n_embd]. Id `n_tokens + i` is token i in the second text; all are below 2 n_tokens."""
        is_second = ids >= self.n_tokens
        rows = self._table.take(np.where(is_second, ids - self.n_tokens, ids))
        rows[is_second] += self._second
        return rows


class _Rows:
    """One matrix of the file, of any supported type."""

    def __init__(self, header: GgufHeader, tensor: TensorInfo) -> None:
        self.n_rows = tensor.shape[1]
        shape = (self.n_rows, tensor.size_bytes // self.n_rows)
        begin = header.data_start + tensor.offset
        self._stored = np.memmap(header.path, np.uint8, "r", begin, shape).view(np.ndarray)
        self._type = tensor.type
        self._label = f"{header.path}, {tensor.name}"

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
                f"{self._label} is stored as {self._type}, which cannot be dequantized, but this reranker needs it for "
                "pairs: use a file with another type of weights"
            ) from error
