"""Stored weights as float32: F32, F16 and BF16 directly, quantized types with the `gguf` package."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gguf_embed.errors import ModelFileError
from gguf_embed.gguf_file.header import GgufHeader, TensorInfo
from gguf_embed.types import FloatMatrix


def read_tensor(header: GgufHeader, tensor: TensorInfo) -> NDArray[np.uint8]:
    """The bytes of a tensor: uint8[rows, bytes per row], a row being its fastest dimension.

    They are read, never mapped: a mapped file that is overwritten ends the process. Raises `ModelFileError` if the file
    is shorter than its header says, or cannot be read any more.
    """
    n_rows = max(1, int(np.prod(tensor.shape[1:], dtype=np.int64)))
    begin = header.data_start + tensor.offset
    try:
        data = np.fromfile(header.path, np.uint8, tensor.size_bytes, offset=begin)
    except OSError as error:
        raise ModelFileError(f"{header.path} cannot be read: {error.strerror or error}") from error
    if len(data) != tensor.size_bytes:
        raise ModelFileError(f"{header.path}: tensor {tensor.name} is cut: the file was changed in the meantime")
    return data.reshape(n_rows, tensor.size_bytes // n_rows)


def to_float32(stored: NDArray[np.uint8], type_name: str, label: str) -> FloatMatrix:
    """Rows of bytes as float32[rows, n]. `label` names the tensor in the error.

    Raises `ModelFileError` for a type that cannot be dequantized.
    """
    if type_name == "F32":
        return stored.view("<f4")
    if type_name == "F16":
        return stored.view("<f2").astype(np.float32)
    if type_name == "BF16":
        return (stored.view("<u2").astype(np.uint32) << 16).view(np.float32)
    from gguf.constants import GGMLQuantizationType  # imported here, because it takes 70 ms
    from gguf.quants import dequantize

    try:
        return np.ascontiguousarray(dequantize(stored, GGMLQuantizationType[type_name]), np.float32)
    except (KeyError, NotImplementedError, ValueError) as error:
        raise ModelFileError(
            f"{label} is stored as {type_name}, which cannot be dequantized here: "
            "use a file with another type of weights"
        ) from error


def not_finite(values: NDArray[np.floating]) -> int:
    """How many of the numbers are NaN or infinity."""
    with np.errstate(invalid="ignore"):  # the sum of infinity and -infinity
        if np.isfinite(values.sum(dtype=np.float64)):
            return 0
    return int(values.size - np.isfinite(values).sum())


def dequantized(header: GgufHeader, tensor: TensorInfo) -> FloatMatrix:
    """All values of a tensor, float32[rows, n]. Raises `ModelFileError` as `to_float32` does."""
    return to_float32(read_tensor(header, tensor), tensor.type, f"{header.path}: tensor {tensor.name}")
