"""What a converter decides before anything is written: which tensor goes where, in which type."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import gguf

from gguf_embed.model_files.convert.safetensors import StoredTensor

OutType = Literal["f32", "f16", "bf16"]

MATRIX_TYPES: dict[OutType, gguf.GGMLQuantizationType] = {
    "f32": gguf.GGMLQuantizationType.F32,
    "f16": gguf.GGMLQuantizationType.F16,
    "bf16": gguf.GGMLQuantizationType.BF16,
}
FILE_TYPES: dict[OutType, gguf.LlamaFileType] = {
    "f32": gguf.LlamaFileType.ALL_F32,
    "f16": gguf.LlamaFileType.MOSTLY_F16,
    "bf16": gguf.LlamaFileType.MOSTLY_BF16,
}


@dataclass(frozen=True, slots=True)
class PlannedTensor:
    """One tensor to write under a GGUF name, read from `stored` when its turn comes."""

    name: str
    stored: StoredTensor
    type: gguf.GGMLQuantizationType


@dataclass(frozen=True, slots=True)
class ConversionPlan:
    """Everything about the GGUF to write, weights not yet read. `write_metadata` adds the architecture's own keys."""

    architecture: str
    tensors: tuple[PlannedTensor, ...]
    write_metadata: Callable[[gguf.GGUFWriter], None]
