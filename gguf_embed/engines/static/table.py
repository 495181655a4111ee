"""The rows of a static model as float32, a few at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gguf_embed.engines.memory import fits_in_memory
from gguf_embed.errors import ModelFileError
from gguf_embed.gguf_file.dequantize import read_tensor
from gguf_embed.gguf_file.header import GgufHeader, TensorInfo
from gguf_embed.gguf_file.static_format import MAPPING, TABLE, WEIGHTS
from gguf_embed.types import FloatMatrix

UNPACKED_BYTES = 256 * 2**20
"""Tables of F16, BF16 and Q8_0 up to this size are converted to float32 in memory; larger ones row by row.

Converting row by row takes 1.5 to 5 times as long (docs/static-models.md has the numbers); a float32 table takes two
to four times the file's size.
"""

_Q8_BLOCK = 32
_DTYPES: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
    "Q8_0": np.dtype([("scale", "<f2"), ("values", "i1", _Q8_BLOCK)]),
    "I32": np.dtype("<i4"),
}

Ids = NDArray[np.int64]
TakeRows = Callable[[Ids, FloatMatrix], None]
"""Writes the rows of `ids`, which must be in range, into float32[len(ids), n_embd]."""


@dataclass(frozen=True, slots=True)
class TokenTable:
    """One row per token id. Thread-safe."""

    n_tokens: int
    n_embd: int
    n_rows: int
    type: str  # of the stored rows, e.g. "Q8_0"
    _take: TakeRows
    _weights: NDArray[np.float32] | None
    _mapping: NDArray[np.int32] | None

    def take(self, ids: Ids, out: FloatMatrix) -> None:
        """Write the rows of `ids` into `out`, float32[len(ids), n_embd]. All ids must be in 0..n_tokens-1."""
        self._take(ids if self._mapping is None else self._mapping[ids].astype(np.int64), out)
        if self._weights is not None:
            np.multiply(out, self._weights[ids][:, np.newaxis], out=out)


def open_table(header: GgufHeader) -> TokenTable:
    """Read the file's tensors. Raises `ModelFileError` if one is missing or their shapes do not match."""
    tensor = _tensor(header, TABLE, 2)
    n_embd, n_rows = tensor.shape
    take = _opener(header, tensor)
    weights, mapping = _vector(header, WEIGHTS, "F32"), _vector(header, MAPPING, "I32")
    n_tokens = n_rows if mapping is None else len(mapping)
    if mapping is not None and not (mapping.min(initial=0) >= 0 and mapping.max(initial=0) < n_rows):
        raise ModelFileError(f"{header.path}: {MAPPING} has rows outside the table's {n_rows}; convert it again")
    if weights is not None and len(weights) != n_tokens:
        raise ModelFileError(
            f"{header.path}: {WEIGHTS} has {len(weights)} values for {n_tokens} tokens; convert it again"
        )
    return TokenTable(n_tokens, n_embd, n_rows, tensor.type, take, weights, mapping)


def _tensor(header: GgufHeader, name: str, n_dims: int) -> TensorInfo:
    tensor = header.tensors.get(name)
    if tensor is None or len(tensor.shape) != n_dims or 0 in tensor.shape:
        found = "is missing" if tensor is None else f"has shape {tensor.shape}"
        raise ModelFileError(f"{header.path}: tensor {name} {found}, so this is not a static model; convert it again")
    return tensor


def _vector(header: GgufHeader, name: str, type_name: str) -> NDArray[Any] | None:
    if name not in header.tensors:
        return None
    tensor = _tensor(header, name, 1)
    if tensor.type != type_name:
        raise ModelFileError(f"{header.path}: tensor {name} is {tensor.type}, expected {type_name}; convert it again")
    return _stored(header, tensor, tensor.shape)


def _stored(header: GgufHeader, tensor: TensorInfo, shape: tuple[int, ...]) -> NDArray[Any]:
    """A tensor as it is stored: in memory, or mapped if it takes too much of it."""
    if fits_in_memory(tensor.size_bytes):
        return read_tensor(header, tensor).reshape(-1).view(_DTYPES[tensor.type]).reshape(shape)
    begin = header.data_start + tensor.offset
    return np.memmap(header.path, _DTYPES[tensor.type], "r", begin, shape).view(np.ndarray)


def _opener(header: GgufHeader, tensor: TensorInfo) -> TakeRows:
    n_embd, n_rows = tensor.shape
    if tensor.type not in _READERS:
        raise ModelFileError(
            f"{header.path}: its rows are {tensor.type}, supported are {', '.join(_READERS)}: convert it to one of them"
        )
    if tensor.type == "Q8_0" and n_embd % _Q8_BLOCK:
        raise ModelFileError(
            f"{header.path}: Q8_0 rows of {n_embd} numbers do not fill whole blocks of {_Q8_BLOCK}; use F16"
        )
    n_blocks = n_embd // _Q8_BLOCK if tensor.type == "Q8_0" else n_embd
    take = _READERS[tensor.type](_stored(header, tensor, (n_rows, n_blocks)))
    if tensor.type == "F32":
        return take
    if 4 * n_embd * n_rows > UNPACKED_BYTES:
        return take
    table = np.empty((n_rows, n_embd), np.float32)
    for begin in range(0, n_rows, 4096):
        ids = np.arange(begin, min(begin + 4096, n_rows))
        take(ids, table[begin : begin + 4096])
    return _float32_rows(table)


def _float32_rows(table: NDArray[Any]) -> TakeRows:
    def take(ids: Ids, out: FloatMatrix) -> None:
        table.take(ids, axis=0, out=out, mode="clip")  # the other modes copy through a buffer

    return take


def _float16_rows(table: NDArray[Any]) -> TakeRows:
    def take(ids: Ids, out: FloatMatrix) -> None:
        np.copyto(out, table.take(ids, axis=0))

    return take


def _bfloat16_rows(table: NDArray[Any]) -> TakeRows:
    def take(ids: Ids, out: FloatMatrix) -> None:
        bits = out.view(np.uint32)
        np.copyto(bits, table.take(ids, axis=0))
        np.left_shift(bits, 16, out=bits)

    return take


def _q8_rows(table: NDArray[Any]) -> TakeRows:
    def take(ids: Ids, out: FloatMatrix) -> None:
        blocks = table.take(ids, axis=0)
        scales = blocks["scale"].astype(np.float32)[..., np.newaxis]
        np.multiply(blocks["values"], scales, out=out.reshape(*blocks.shape, _Q8_BLOCK))

    return take


_READERS: dict[str, Callable[[NDArray[Any]], TakeRows]] = {
    "F32": _float32_rows,
    "F16": _float16_rows,
    "BF16": _bfloat16_rows,
    "Q8_0": _q8_rows,
}
