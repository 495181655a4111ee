"""What a converter decides before anything is written: which tensor goes where, in which type."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import gguf

from gguf_embed.convert.safetensors import StoredTensor

OutType = Literal["f32", "f16", "bf16", "q8_0"]

FILE_TYPES: dict[OutType, gguf.LlamaFileType] = {
    "f32": gguf.LlamaFileType.ALL_F32,
    "f16": gguf.LlamaFileType.MOSTLY_F16,
    "bf16": gguf.LlamaFileType.MOSTLY_BF16,
    "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
}
_MATRIX_TYPES: dict[OutType, gguf.GGMLQuantizationType] = {
    "f32": gguf.GGMLQuantizationType.F32,
    "f16": gguf.GGMLQuantizationType.F16,
    "bf16": gguf.GGMLQuantizationType.BF16,
    "q8_0": gguf.GGMLQuantizationType.Q8_0,
}
_Q8_BLOCK = 32  # values that share a scale; a row is made of whole blocks


def matrix_type(outtype: OutType, shape: tuple[int, ...]) -> gguf.GGMLQuantizationType:
    """The type a matrix is stored in: `outtype`, but F16 for q8_0 where a row is no multiple of 32 values."""
    if outtype == "q8_0" and shape[-1] % _Q8_BLOCK:
        return gguf.GGMLQuantizationType.F16
    return _MATRIX_TYPES[outtype]


@dataclass(frozen=True, slots=True)
class PlannedTensor:
    """One tensor to write under a GGUF name, read from `stored` when its turn comes."""

    name: str
    stored: StoredTensor
    type: gguf.GGMLQuantizationType
    skip_rows: int = 0  # left out at the top
    rows: tuple[int, ...] | None = None  # only these, in this order
    add: float = 0.0  # to every value, before it takes its type

    @property
    def shape(self) -> tuple[int, ...]:
        """As written; PyTorch's order, (out, in)."""
        n_rows, *rest = self.stored.shape or (1,)
        return (n_rows - self.skip_rows if self.rows is None else len(self.rows), *rest)


@dataclass(frozen=True, slots=True)
class ConversionPlan:
    """Everything about the GGUF to write, weights not yet read. `write_metadata` adds the architecture's own keys."""

    architecture: str
    tensors: tuple[PlannedTensor, ...]
    write_metadata: Callable[[gguf.GGUFWriter], None]
    n_ctx: int | None = None  # positions the model takes, where the planner tells
    notes: tuple[str, ...] = ()  # what the user should know of this model in llama.cpp, a line each
