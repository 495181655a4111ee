"""Shared by the converters: tensor names from a table, shapes checked against the config, metadata."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol, TypedDict

import gguf

from gguf_embed.convert.plan import MatrixAxes, OutType, PlannedTensor, matrix_type
from gguf_embed.convert.safetensors import StoredTensor, list_tensors
from gguf_embed.convert.source import MAX_LAYERS, ModelSourceDirectory
from gguf_embed.errors import ModelFileError
from gguf_embed.gguf_file.constants import POOLING_NUMBERS
from gguf_embed.types import Pooling


class NameTable(Protocol):
    """Finds the GGUF name of an original tensor."""

    def find(self, original: str) -> str | None:
        """The GGUF name with suffix; "" for a tensor that is not needed; None for an unknown one."""
        ...


Shapes = dict[str, tuple[int, ...]]
"""Shapes by GGUF name, in PyTorch's order."""

_OLD_SUFFIXES = {".gamma": ".weight", ".beta": ".bias"}  # TensorFlow's names for a layer norm's parts
_ALWAYS_F32 = (
    *("position_embd.weight", "token_types.weight", "cls.output.weight"),
    *("rel_attn_bias.weight", "enc.blk.0.attn_rel_b.weight"),
    *("t.position_embd.weight", "v.position_embd.weight", "v.class_embd", "v.head.probe"),  # of towers
)
"""The first two as in llama.cpp's converter; the others are tiny and affect every score, or all attention."""
_KERNELS = "shortconv.conv.weight"  # llama.cpp computes short convolutions with F32 only


@dataclass(frozen=True, slots=True)
class TensorNames:
    """The names of a family's tensors: original → GGUF, both without ".weight" and ".bias"."""

    prefix: str  # before the encoder's tensor names in models with a head, e.g. "bert."
    layers: str  # before a layer's number, e.g. "encoder.layer."
    model: Mapping[str, str]  # outside the layers
    layer: Mapping[str, str]  # in a layer, after its number
    ignored: tuple[str, ...] = ()  # beginnings of names that are not needed for embedding
    layer_name: str = "blk"  # before a layer's number in the GGUF

    def find(self, original: str) -> str | None:
        """The GGUF name with suffix; "" for a tensor that is not needed; None for an unknown one."""
        plain = original.removeprefix(self.prefix)
        if plain.startswith(self.ignored) or original.startswith(self.ignored):
            return ""
        for old, new in _OLD_SUFFIXES.items():
            plain = plain.removesuffix(old) + new if plain.endswith(old) else plain
        stem, _, suffix = plain.rpartition(".")
        if stem in self.model:
            return f"{self.model[stem]}.{suffix}"
        number, _, part = stem.removeprefix(self.layers).partition(".")
        if stem.startswith(self.layers) and number.isdecimal() and part in self.layer:
            return f"{self.layer_name}.{number}.{self.layer[part]}.{suffix}"
        return None


@dataclass(frozen=True, slots=True)
class Dimensions:
    """The sizes of an encoder, independent of their names in its config."""

    n_vocab: int
    n_embd: int
    n_layer: int
    n_head: int
    n_ff: int
    n_ctx: int  # positions that a text may take
    norm_eps: float
    n_token_types: int = 0  # 0: it has none

    def __post_init__(self) -> None:
        if self.n_embd % self.n_head:
            raise ModelFileError(f"config.json: {self.n_embd} dimensions cannot be divided among {self.n_head} heads")

    def norm(self, name: str, *, bias: bool = True) -> Shapes:
        """The shapes of a layer norm."""
        parts = ("weight", "bias") if bias else ("weight",)
        return {f"{name}.{part}": (self.n_embd,) for part in parts}


class Sizes(TypedDict):
    """The sizes that nearly all configs call the same."""

    n_vocab: int
    n_embd: int
    n_layer: int
    n_head: int
    n_ff: int


def read_sizes(source: ModelSourceDirectory) -> Sizes:
    """From transformers' usual names. Raises `ModelFileError` like `ModelSourceDirectory.integer`."""
    return {
        "n_vocab": source.integer("vocab_size"),
        "n_embd": source.integer("hidden_size"),
        "n_layer": source.integer("num_hidden_layers", maximum=MAX_LAYERS),
        "n_head": source.integer("num_attention_heads"),
        "n_ff": source.integer("intermediate_size"),
    }


def linear(name: str, n_out: int, n_in: int, *, bias: bool = True) -> Shapes:
    """The shapes of a linear layer."""
    shapes: Shapes = {f"{name}.weight": (n_out, n_in)}
    return shapes | {f"{name}.bias": (n_out,)} if bias else shapes


def plan_tensors(
    source: ModelSourceDirectory,
    names: NameTable,
    expected: Shapes,
    outtype: OutType,
    skipped_rows: Mapping[str, int] | None = None,
    axes: Mapping[str, MatrixAxes] | None = None,
) -> tuple[PlannedTensor, ...]:
    """Give each tensor its name and type. `expected` has the shapes to write, without `skipped_rows`, with `axes`.

    Raises `ModelFileError` if a tensor is unknown, missing or of another shape: otherwise llama.cpp would refuse the
    file after it was written.
    """
    planned: dict[str, PlannedTensor] = {}
    for original, tensor in sorted(list_tensors(source.path).items()):
        name = names.find(original)
        if name == "":
            continue
        if name is None or name not in expected or name in planned:
            raise ModelFileError(f"{tensor.path}: tensor {original} is unknown for this architecture")
        planned[name] = _planned(name, tensor, outtype, (skipped_rows or {}).get(name, 0), (axes or {}).get(name))
    for name, shape in expected.items():
        found = planned[name].shape if name in planned else None
        if found != shape:
            raise ModelFileError(
                f"{source.path}: tensor {name} should be {shape}, "
                + ("but it is missing" if found is None else f"but it is {found}")
            )
    return tuple(planned.values())


def _planned(
    name: str, tensor: StoredTensor, outtype: OutType, skip_rows: int, axes: MatrixAxes | None
) -> PlannedTensor:
    if axes is not None and len(sum(axes, ())) != len(tensor.shape):
        raise ModelFileError(
            f"{tensor.path}: tensor {name} has {len(tensor.shape)} dimensions, not {len(sum(axes, ()))}"
        )
    planned = PlannedTensor(name, tensor, gguf.GGMLQuantizationType.F32, skip_rows=skip_rows, axes=axes)
    is_f32 = len(tensor.shape) < 2 or name in _ALWAYS_F32 or name.endswith(_KERNELS)
    return planned if is_f32 else replace(planned, type=matrix_type(outtype, planned.shape))


def write_dimensions(writer: gguf.GGUFWriter, dimensions: Dimensions, pooling: Pooling | None) -> None:
    """Write the keys that all encoders have."""
    writer.add_context_length(dimensions.n_ctx)
    writer.add_embedding_length(dimensions.n_embd)
    writer.add_block_count(dimensions.n_layer)
    writer.add_feed_forward_length(dimensions.n_ff)
    writer.add_head_count(dimensions.n_head)
    writer.add_layer_norm_eps(dimensions.norm_eps)
    writer.add_causal_attention(False)
    if dimensions.n_token_types:
        writer.add_token_type_count(dimensions.n_token_types)
    if pooling is not None:
        writer.add_pooling_type(gguf.PoolingType(POOLING_NUMBERS[pooling]))
