"""The tensors and sizes of a GGUF for the graphs: read, dequantized to float32, and checked."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gguf_embed.errors import ModelFileError
from gguf_embed.gguf_file.dequantize import dequantized
from gguf_embed.gguf_file.header import GgufHeader, TensorInfo
from gguf_embed.types import FloatMatrix


class GraphWeights:
    """Reads a file's tensors by name, in PyTorch's order of dimensions. Errors name the tensor or the key."""

    def __init__(self, header: GgufHeader) -> None:
        self.header = header
        self.architecture = header.architecture
        self._read: set[str] = set()

    def has(self, name: str) -> bool:
        return name in self.header.tensors

    def array(self, name: str, shape: Sequence[int]) -> FloatMatrix:
        """float32 of `shape`.

        Raises `ModelFileError` if the tensor is missing, has another shape or a type that cannot be read, or contains
        NaN or infinity.
        """
        tensor = self.header.tensors.get(name)
        if tensor is None:
            raise self.error(f"tensor {name} is missing")
        found = tuple(reversed(tensor.shape))
        if found != tuple(shape):
            raise self.error(f"tensor {name} has shape {list(found)}, expected {list(shape)}")
        self._read.add(name)
        return self._finite(name, tensor).reshape(found)

    def rows(self, name: str) -> int:
        """The first dimension of a tensor in PyTorch's order: the outputs of a linear layer. The tensor must exist."""
        return self.header.tensors[name].shape[-1]

    def unread(self) -> list[str]:
        """The names of the tensors that no graph has read: the file has more than the network that was built."""
        return sorted(set(self.header.tensors) - self._read)

    def mark_read(self, *names: str) -> None:
        self._read.update(names)

    def integer(self, key: str, default: int | None = None) -> int:
        """`<architecture>.<key>`. Raises `ModelFileError` if it is missing without a default, or not positive."""
        value = self.header.get(f"{self.architecture}.{key}", int)
        value = default if value is None else value
        if value is None or not 0 < value < 2**31:
            raise self.error(f"{self.architecture}.{key} is {value}, expected a positive number")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """The same for a fraction. Raises `ModelFileError` also for NaN and infinity."""
        value = self.header.get(f"{self.architecture}.{key}", float)
        value = default if value is None else value
        if value is None or not 0 < value < float("inf"):
            raise self.error(f"{self.architecture}.{key} is {value}, expected a positive number")
        return value

    def text(self, key: str, default: str) -> str:
        value = self.header.get(f"{self.architecture}.{key}", str)
        return default if value is None else value

    def window_reach(self) -> int | None:
        """How far a layer with local attention sees to either side, in tokens; None: the file has no window."""
        window = self.header.get(f"{self.architecture}.attention.sliding_window", int)
        return window // 2 if window else None

    def local_layers(self, every: int, *, global_first: bool) -> list[bool]:
        """Which layers have local attention: as the file says, else all but one of `every`, its first or its last."""
        n_layer = self.integer("block_count")
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
        return self.number("rope.scaling.factor", 1.0)

    def error(self, problem: str) -> ModelFileError:
        return ModelFileError(f"{self.header.path}: {problem}; download or convert the model again")

    def _finite(self, name: str, tensor: TensorInfo) -> FloatMatrix:
        values = dequantized(self.header, tensor)
        if not np.isfinite(values.sum(dtype=np.float64)):
            n_bad = int(values.size - np.isfinite(values).sum())
            raise self.error(f"tensor {name} has {n_bad} values that are NaN or infinite")
        return values
