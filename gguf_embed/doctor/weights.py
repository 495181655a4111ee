"""The weights: infinities, NaN, and matrices of zeros."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gguf_embed.doctor.findings import Finding, serious, some, warning
from gguf_embed.errors import ModelFileError
from gguf_embed.gguf_file.constants import TENSOR_TYPES
from gguf_embed.gguf_file.header import GgufHeader, TensorInfo

_EXPONENTS = {"F32": ("<u4", 0x7F800000), "F16": ("<u2", 0x7C00), "BF16": ("<u2", 0x7F80)}
"""Unsigned type of the same width, and the bits that are all set in infinity and NaN."""

_SCALES = {
    "Q4_0": (0,),
    "Q4_1": (0, 2),
    "Q5_0": (0,),
    "Q5_1": (0, 2),
    "Q8_0": (0,),
    "Q2_K": (80, 82),
    "Q3_K": (108,),
    "Q4_K": (0, 2),
    "Q5_K": (0, 2),
    "Q6_K": (208,),
    "IQ4_NL": (0,),
    "IQ4_XS": (0,),
}
"""Byte offsets of the F16 scales in a block (ggml-common.h)."""

_BLOCK_BYTES = {name: size for name, _, size in TENSOR_TYPES.values()}
_PIECES = 16  # evenly spread over a tensor: the sample of a quick scan
_PIECE_BYTES = 16_384
_CHUNK_BYTES = 8 * 2**20  # read at a time in a full scan: limits the memory it takes
_SIGN_BITS = {"F32": 0x80000000, "F16": 0x8000, "BF16": 0x8000}


@dataclass(frozen=True, slots=True)
class _Flaws:
    not_finite: tuple[str, ...]
    zero: tuple[str, ...]


def check_weights(parts: Iterable[GgufHeader], *, deep: bool) -> Iterator[Finding]:
    """Scan a sample of every matrix and all of every vector, or with `deep` everything.

    Quantized types without F16 scales are skipped. Raises `ModelFileError` if the file cannot be read.
    """
    not_finite: list[str] = []
    zero: list[str] = []
    for part in parts:
        flaws = _scan(part, deep)
        not_finite += flaws.not_finite
        zero += flaws.zero
    fix = "download the file again and compare its checksum; if it is intact, convert the model again, to bf16 or f32"
    if not_finite:
        message = f"{len(not_finite)} tensors hold infinities or NaN ({some(not_finite)}): vectors will be NaN"
        yield serious("weights_not_finite", message, fix)
    if zero:
        yield warning("weights_zero", f"{len(zero)} matrices contain only zeros ({some(zero)})", fix)


def _scan(header: GgufHeader, deep: bool) -> _Flaws:
    not_finite, zero = [], []
    for tensor in header.tensors.values():
        if tensor.size_bytes == 0 or not _is_scannable(tensor):
            continue
        data = _map(header.path, header.data_start + tensor.offset, tensor.size_bytes)
        whole = deep or len(tensor.shape) < 2
        if any(_has_not_finite(piece, tensor.type) for piece in _pieces(data, tensor, whole)):
            not_finite.append(tensor.name)
        if _zeros_are_a_flaw(tensor) and _is_zero(data, tensor, whole):
            zero.append(tensor.name)
    return _Flaws(tuple(not_finite), tuple(zero))


def _is_scannable(tensor: TensorInfo) -> bool:
    return tensor.type in _EXPONENTS or tensor.type in _SCALES


def _zeros_are_a_flaw(tensor: TensorInfo) -> bool:
    """Vectors may be all zeros, a weight matrix may not. Only unquantized zeros are recognized."""
    is_matrix = len(tensor.shape) > 1 and tensor.name.endswith(".weight")
    return is_matrix and tensor.type in _EXPONENTS


def _map(path: Path, offset: int, size_bytes: int) -> NDArray[np.uint8]:
    try:
        return np.memmap(path, dtype=np.uint8, mode="r", offset=offset, shape=(size_bytes,))
    except (OSError, ValueError) as exc:
        raise ModelFileError(f"{path} cannot be read: {exc}") from exc


def _pieces(data: NDArray[np.uint8], tensor: TensorInfo, whole: bool) -> Iterator[NDArray[np.uint8]]:
    """Pieces of complete numbers or blocks: all of the data, or an evenly spread sample."""
    unit = _BLOCK_BYTES[tensor.type]
    n_units = len(data) // unit
    size = max(1, (_CHUNK_BYTES if whole else _PIECE_BYTES) // unit)
    if whole or n_units <= _PIECES * size:
        starts = range(0, n_units, size)
    else:
        starts = range(0, n_units - size + 1, (n_units - size) // (_PIECES - 1))
    for start in starts:
        yield data[start * unit : min(start + size, n_units) * unit]


def _has_not_finite(piece: NDArray[np.uint8], kind: str) -> bool:
    if kind in _EXPONENTS:
        width, bits = _EXPONENTS[kind]
        return _all_bits(np.frombuffer(piece, dtype=width), bits)
    blocks = piece.reshape(-1, _BLOCK_BYTES[kind])
    scales = [np.ascontiguousarray(blocks[:, at : at + 2]).view("<u2") for at in _SCALES[kind]]
    return any(_all_bits(scale, _EXPONENTS["F16"][1]) for scale in scales)


def _all_bits(numbers: NDArray[np.unsignedinteger], bits: int) -> bool:
    return bool(((numbers & bits) == bits).any())


def _is_zero(data: NDArray[np.uint8], tensor: TensorInfo, whole: bool) -> bool:
    """If a sample is all zeros, everything is read before the answer is yes."""
    width, sign = _EXPONENTS[tensor.type][0], _SIGN_BITS[tensor.type]

    def zeros(piece: NDArray[np.uint8]) -> bool:
        numbers = np.frombuffer(piece, dtype=width)
        return not bool((numbers & ~np.array(sign, numbers.dtype)).any())

    return all(map(zeros, _pieces(data, tensor, whole))) and (whole or all(map(zeros, _pieces(data, tensor, True))))
