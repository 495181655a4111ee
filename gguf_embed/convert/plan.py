"""What a converter decides before anything is written: the name and type of every tensor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod
from typing import Literal

import gguf

from gguf_embed.convert.safetensors import StoredTensor
from gguf_embed.errors import ModelFileError
from gguf_embed.gguf_file.towers import PROBE

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
_Q8_BLOCK = 32  # values that share a scale; a row has to consist of whole blocks


def matrix_type(outtype: OutType, shape: tuple[int, ...]) -> gguf.GGMLQuantizationType:
    """The type for a matrix: `outtype`, but F16 instead of q8_0 if the row length is not a multiple of 32."""
    if outtype == "q8_0" and shape[-1] % _Q8_BLOCK:
        return gguf.GGMLQuantizationType.F16
    return _MATRIX_TYPES[outtype]


MatrixAxes = tuple[tuple[int, ...], tuple[int, ...]]
"""The axes of a tensor that become a matrix' rows, and those that become its columns."""


@dataclass(frozen=True, slots=True)
class PlannedTensor:
    """One tensor to write under a GGUF name, read from `stored` only when it is written."""

    name: str
    stored: StoredTensor
    type: gguf.GGMLQuantizationType
    skip_rows: int = 0  # left out at the beginning
    rows: tuple[int, ...] | None = None  # only these, in this order
    add: float = 0.0  # to every value, before conversion to `type`
    axes: MatrixAxes | None = None  # of a tensor with more dimensions, which becomes a matrix

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape to write, in PyTorch's order: (out, in)."""
        if self.axes is not None:
            return tuple(prod(self.stored.shape[axis] for axis in axes) for axes in self.axes)
        n_rows, *rest = self.stored.shape or (1,)
        return (n_rows - self.skip_rows if self.rows is None else len(self.rows), *rest)


@dataclass(frozen=True, slots=True)
class ConversionPlan:
    """Everything about the GGUF to write, except the weights. `write_metadata` adds the architecture's own keys."""

    architecture: str
    tensors: tuple[PlannedTensor, ...]
    write_metadata: Callable[[gguf.GGUFWriter], None]
    n_ctx: int | None = None  # positions of the model, if the planner knows
    notes: tuple[str, ...] = ()  # differences between llama.cpp and the original for the user, one line each

    def with_tower(self, tower: ConversionPlan) -> ConversionPlan:
        """This text model with an image tower in its file. Raises `ModelFileError` for what is no tower, or not its."""
        probe = next((tensor for tensor in tower.tensors if tensor.name == f"v.{PROBE}"), None)
        if probe is None or any(tensor.name.startswith("t.") for tensor in tower.tensors):
            raise ModelFileError(
                f"a {tower.architecture} model is no image tower alone, so it cannot be put into the file of another "
                "model: give a NomicVisionModel"
            )
        width = next((tensor.shape[-1] for tensor in self.tensors if tensor.name == "token_embd.weight"), None)
        if width != probe.shape[-1]:
            raise ModelFileError(
                f"the image tower's vectors have {probe.shape[-1]} numbers, those of the text model {width}: give the "
                "text model in whose space it was trained"
            )

        def write_metadata(writer: gguf.GGUFWriter) -> None:
            self.write_metadata(writer)
            tower.write_metadata(writer)

        notes = (*self.notes, *tower.notes)
        return replace(self, tensors=(*self.tensors, *tower.tensors), write_metadata=write_metadata, notes=notes)
