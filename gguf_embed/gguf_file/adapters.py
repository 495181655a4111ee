"""Low-rank adapters in a GGUF, one per task, and rows of the token table with them. llama.cpp knows no such keys."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gguf_embed.errors import ModelFileError
from gguf_embed.gguf_file.dequantize import dequantized, not_finite
from gguf_embed.gguf_file.header import GgufHeader
from gguf_embed.gguf_file.token_rows import TokenRows
from gguf_embed.types import FloatMatrix

TASKS: Final = "adapter.tasks"
"""`<architecture>.<key>`: the names of the tasks, in the order of their columns."""

RANK: Final = "adapter.rank"
"""Columns per task."""

SCALE: Final = "adapter.scale"
"""The factor for what an adapter adds."""

MAX_TASKS, MAX_RANK = 64, 256


class TensorParts:
    """What stands between a tensor's name and ".weight" for its adapters."""

    LOWERING: Final = "lora_a"
    RAISING: Final = "lora_b"


@dataclass(frozen=True, slots=True)
class Adapters:
    """The adapters that a file declares."""

    tasks: tuple[str, ...]
    rank: int
    scale: float

    @property
    def width(self) -> int:
        """Columns of all tasks."""
        return len(self.tasks) * self.rank

    def columns(self) -> FloatMatrix:
        """float32[1 + tasks, width]: 1 for the columns of a task, whose row is one after its number; row 0 is 0."""
        own: FloatMatrix = np.repeat(np.eye(len(self.tasks), dtype=np.float32), self.rank, axis=1)
        return np.concatenate([np.zeros((1, self.width), np.float32), own])


def has_adapters(header: GgufHeader) -> bool:
    return f"token_embd.{TensorParts.LOWERING}.weight" in header.tensors


def task_names(header: GgufHeader) -> tuple[str, ...]:
    """As the file declares them, right or wrong; () for a file without adapters."""
    stored = header.metadata.get(f"{header.architecture}.{TASKS}")
    if not has_adapters(header) or not isinstance(stored, tuple):
        return ()
    names = tuple(task for task in stored if isinstance(task, str) and task)
    return names if len(names) == len(stored) else ()


def read_adapters(header: GgufHeader) -> Adapters | None:
    """None for a file without them. Raises `ModelFileError` for impossible values."""
    if not has_adapters(header):
        return None
    tasks = task_names(header)
    if not 1 <= len(tasks) <= MAX_TASKS or len(set(tasks)) < len(tasks):
        stored = header.metadata.get(f"{header.architecture}.{TASKS}")
        raise _error(header, f"{TASKS} is {stored!r}, expected 1 to {MAX_TASKS} different names")
    rank = header.get(f"{header.architecture}.{RANK}", int)
    if rank is None or not 1 <= rank <= MAX_RANK:
        raise _error(header, f"{RANK} is {rank}, expected 1 to {MAX_RANK}")
    scale = header.get(f"{header.architecture}.{SCALE}", float)
    if scale is None or not 0 < scale < float("inf"):
        raise _error(header, f"{SCALE} is {scale}, expected a positive number")
    return Adapters(tasks, rank, scale)


class TaskRows:
    """Rows of the token table, with a task's adapters of it and of the token types.

    Id `n_tokens · (1 + k) + i` is token i for task k. Safe from any thread.
    """

    def __init__(self, header: GgufHeader, adapters: Adapters) -> None:
        """Reads the file's tensors.

        Raises `ModelFileError` if one is missing, has another shape, or contains NaN or infinity.
        """
        self.tasks = adapters.tasks
        self._table = TokenRows(header)
        self.n_tokens = self._table.n_tokens
        self._columns = adapters.columns()
        self._lowered, self._raising = _pair(header, "token_embd", self.n_tokens, adapters)
        types, raising = _pair(header, "token_types", 1, adapters)
        self._of_types: FloatMatrix = (self._columns * types[0]) @ raising

    def take(self, ids: NDArray[np.int64]) -> FloatMatrix:
        """float32[len(ids), n_embd]. All ids are below (1 + tasks) n_tokens."""
        tasks, tokens = np.divmod(ids, self.n_tokens)
        rows = self._table.take(tokens)
        if tasks.any():
            rows += (self._lowered[tokens] * self._columns[tasks]) @ self._raising + self._of_types[tasks]
        return rows

    def columns(self, ids: NDArray[np.int64]) -> FloatMatrix:
        """float32[len(ids), width]: 1 for the columns of each token's task."""
        columns: FloatMatrix = self._columns[ids // self.n_tokens]
        return columns


def _pair(header: GgufHeader, name: str, n_rows: int, adapters: Adapters) -> tuple[FloatMatrix, FloatMatrix]:
    """float32[at least n_rows, width] and float32[width, n_embd], the latter scaled."""
    matrices = []
    for part in (TensorParts.LOWERING, TensorParts.RAISING):
        tensor = header.tensors.get(f"{name}.{part}.weight")
        if tensor is None or len(tensor.shape) != 2 or tensor.shape[0] != adapters.width:
            found = "missing" if tensor is None else f"{list(reversed(tensor.shape))}"
            raise _error(header, f"tensor {name}.{part}.weight is {found}, expected {adapters.width} columns")
        matrices.append(dequantized(header, tensor))
        n_bad = not_finite(matrices[-1])
        if n_bad:
            raise _error(header, f"tensor {tensor.name} contains NaN or infinity ({n_bad:,} numbers)")
    lowering, raising = matrices
    if len(lowering) < n_rows or len(raising) != header.tensors["token_embd.weight"].shape[0]:
        raise _error(header, f"the adapter of {name} does not fit its table")
    return lowering, raising.T * np.float32(adapters.scale)


def _error(header: GgufHeader, problem: str) -> ModelFileError:
    return ModelFileError(f"{header.path}: {problem}; convert the model again")
