"""The tensors and sizes of a GGUF for the graphs: read, dequantized to float32 or kept in float16, and checked."""

from __future__ import annotations

import platform
import re
from collections.abc import Sequence
from math import prod

import numpy as np
from numpy.typing import NDArray

from gguf_embed.errors import ModelFileError
from gguf_embed.gguf_file.dequantize import dequantized, not_finite, read_tensor
from gguf_embed.gguf_file.header import GgufHeader, TensorInfo
from gguf_embed.gguf_file.token_heads import TENSORS as HEAD_TENSORS
from gguf_embed.types import FloatMatrix

MAX_SIZE = 2**24
"""Limit on sizes in the metadata, far above any model's: no array of such a length may exhaust the memory."""

Matrix = FloatMatrix | NDArray[np.float16]

IS_X86 = platform.machine().lower() in ("x86_64", "amd64")
"""On x86, OpenVINO reads a float16 matrix once, into the form that it multiplies with; on other processors it may do so
in each call. It reads a BF16 one into float32 when it compiles, which saves nothing."""

RESIDUAL = ("attn_output", "attn_out", "attn_o", "ffn_down")
"""Matrices whose product is added to the rows of the layer before; see `LinearPieces.add_linear`."""


_NOT_IN_GRAPH = HEAD_TENSORS | {"output.weight"}  # heads are computed on token rows; logits are not computed


def layer_of(name: str) -> int | None:
    """The number, from 0, of the layer of this prefix, or that a tensor belongs to; None if it belongs to none."""
    found = re.search(r"blk\.(\d+)\b", name)
    return int(found[1]) if found else None


def keeps_float16(name: str, tensor: TensorInfo) -> bool:
    """Whether a graph for BF16 has this matrix in float16, which takes half the memory. `name`: the graph's.

    OpenVINO cannot write the product of one in float32, which those for residuals need.
    """
    return IS_X86 and tensor.type == "F16" and not any(f".{part}." in name for part in RESIDUAL)


class GraphWeights:
    """Reads a file's tensors by name, in PyTorch's order of dimensions. Errors name the tensor or the key."""

    def __init__(self, header: GgufHeader, *, for_bf16: bool = False) -> None:
        """`for_bf16`: the graph is for BF16, not for float32."""
        self.header = header
        self.for_bf16 = for_bf16
        self.architecture = header.architecture
        self._read: set[str] = set()

    @property
    def may_write_float32(self) -> bool:
        """Whether OpenVINO can write a product of BF16 in float32; not tried on other processors than x86."""
        return self.for_bf16 and IS_X86

    def has(self, name: str) -> bool:
        return name in self.header.tensors

    def array(self, name: str, shape: Sequence[int]) -> FloatMatrix:
        """float32 of `shape`.

        Raises `ModelFileError` if the tensor is missing, has another shape or a type that cannot be read, or contains
        NaN or infinity.
        """
        return self._finite(name, self.check_shape(name, shape)).reshape(shape)

    def matrix(self, name: str, shape: Sequence[int]) -> Matrix:
        """The same, but float16 of `shape` if it is stored and kept so, which takes half the memory."""
        if not (self.for_bf16 and keeps_float16(name, self._tensor(name))):
            return self.array(name, shape)
        values = read_tensor(self.header, self.check_shape(name, shape)).view(np.float16)
        self._check_finite(name, values)
        return values.reshape(shape)

    def flat(self, name: str, size: int) -> FloatMatrix:
        """float32[size] of a tensor with so many numbers, whatever its shape. Raises like `array`."""
        shape = list(reversed(self._tensor(name).shape))
        if prod(shape) != size:
            raise self.error(f"tensor {name} has shape {shape}, expected {size} numbers")
        return self.array(name, shape).reshape(size)

    def rows(self, name: str) -> int:
        """The first dimension of a tensor in PyTorch's order: the outputs of a linear layer. Raises if missing."""
        return self._tensor(name).shape[-1]

    def check_shape(self, name: str, shape: Sequence[int]) -> TensorInfo:
        """The tensor. Raises `ModelFileError` if it is missing or has another shape."""
        tensor = self._tensor(name)
        found = list(reversed(tensor.shape))
        if found != list(shape):
            raise self.error(f"tensor {name} has shape {found}, expected {list(shape)}")
        self._read.add(name)
        return tensor

    def check_all_read(self) -> None:
        """Raises `ModelFileError` for a tensor that nothing has read: the graph is not what the file describes."""
        unread = sorted(set(self.header.tensors) - self._read - _NOT_IN_GRAPH)
        if unread:
            raise self.error(
                f"tensor {unread[0]} has no place in a {self.architecture} model of {self.n_layer()} layers"
            )

    def _tensor(self, name: str) -> TensorInfo:
        tensor = self.header.tensors.get(name)
        if tensor is None:
            raise self.error(f"tensor {name} is missing")
        return tensor

    def n_layer(self) -> int:
        """The number of layers. Raises `ModelFileError` if the file cannot have so many."""
        n_layer, n_tensors = self.integer("block_count"), len(self.header.tensors)
        if n_layer > n_tensors:
            raise self.error(f"{self.architecture}.block_count is {n_layer}, but the file has only {n_tensors} tensors")
        return n_layer

    def integer(self, key: str, default: int | None = None) -> int:
        """`<architecture>.<key>`. Raises `ModelFileError` if it is missing without a default, or is no size."""
        value = self.header.metadata.get(f"{self.architecture}.{key}", default)
        if not isinstance(value, int) or not 0 < value <= MAX_SIZE:
            raise self.error(f"{self.architecture}.{key} is {value}, expected a number from 1 to {MAX_SIZE}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """The same for a fraction or a whole number. Raises `ModelFileError` also for NaN and infinity."""
        value = self.header.metadata.get(f"{self.architecture}.{key}", default)
        if not isinstance(value, int | float) or not 0 < value < float("inf"):
            raise self.error(f"{self.architecture}.{key} is {value}, expected a positive number")
        return float(value)

    def text(self, key: str, default: str) -> str:
        value = self.header.get(f"{self.architecture}.{key}", str)
        return default if value is None else value

    def window_reach(self) -> int | None:
        """How far a layer with local attention sees to either side, in tokens; None: the file has no window."""
        key = "attention.sliding_window"
        return self.integer(key) // 2 if self.header.metadata.get(f"{self.architecture}.{key}") else None

    def local_layers(self, every: int, *, global_first: bool) -> list[bool]:
        """Which layers have local attention: as the file says, else all but one of `every`, its first or its last."""
        n_layer = self.n_layer()
        stored = self.header.metadata.get(f"{self.architecture}.attention.sliding_window_pattern", every)
        if isinstance(stored, tuple):
            if len(stored) != n_layer:
                raise self.error(f"attention.sliding_window_pattern has {len(stored)} entries for {n_layer} layers")
            return [bool(is_local) for is_local in stored]
        if not isinstance(stored, int) or stored < 0:
            raise self.error(f"attention.sliding_window_pattern is {stored!r}, expected a number of layers")
        if stored == 0:
            return [True] * n_layer
        position = 0 if global_first else stored - 1
        return [number % stored != position for number in range(n_layer)]

    def rope_factor(self) -> float:
        """By how much positions are divided (linear scaling); 1 without scaling."""
        if self.text("rope.scaling.type", "linear") == "none":
            return 1.0
        return self.number("rope.scaling.factor", self.number("rope.scale_linear", 1.0))

    def rope_dimensions(self, head_size: int) -> int:
        """How many of a head's dimensions are rotated, the first ones: as the file says, else all.

        Raises `ModelFileError` if a head has not so many, or if they have no halves.
        """
        key = "rope.dimension_count"
        n_rotated = self.integer(key, head_size)
        if n_rotated > head_size:
            raise self.error(f"{self.architecture}.{key} is {n_rotated}, expected at most {head_size}, a head's size")
        if n_rotated % 2:
            raise self.error(f"a head of {n_rotated} dimensions has no halves to rotate")
        return n_rotated

    def error(self, problem: str) -> ModelFileError:
        return ModelFileError(f"{self.header.path}: {problem}; download or convert the model again")

    def _finite(self, name: str, tensor: TensorInfo) -> FloatMatrix:
        values = dequantized(self.header, tensor)
        self._check_finite(name, values)
        return values

    def _check_finite(self, name: str, values: Matrix) -> None:
        n_bad = not_finite(values)
        if n_bad:
            raise self.error(f"tensor {name} contains NaN or infinity ({n_bad:,} of {values.size:,} numbers)")
