"""GTE's own encoder (gte-multilingual, gte-v1.5): BERT with rotary positions and GeGLU. Its original calls it "new"."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gguf

from gguf_embed.convert.encoder import (
    Dimensions,
    Shapes,
    TensorNames,
    linear,
    plan_tensors,
    read_sizes,
    write_dimensions,
)
from gguf_embed.convert.heads import RankHead, pooling_of, read_rank_head, write_rank_head
from gguf_embed.convert.plan import ConversionPlan, OutType, PlannedTensor
from gguf_embed.convert.rope import Rope, read_rope
from gguf_embed.convert.source import ModelSourceDirectory
from gguf_embed.convert.stored_tokenizer import read_stored_tokenizer
from gguf_embed.errors import ModelFileError

_KINDS = ("Model", "ForMaskedLM", "ForTokenClassification", "ForSequenceClassification")
ARCHITECTURES = tuple(family + kind for family in ("New", "Gte") for kind in _KINDS)

_HEAD = {"pooler.dense": "cls", "classifier": "cls.output"}
_EMBEDDINGS = {
    "embeddings.word_embeddings": "token_embd",
    "embeddings.token_type_embeddings": "token_types",
    "embeddings.LayerNorm": "token_embd_norm",
}
_LAYER = {
    "attention.qkv_proj": "attn_qkv",
    "attention.o_proj": "attn_output",
    "attn_ln": "attn_output_norm",
    "mlp.up_gate_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "mlp_ln": "layer_output_norm",
}
_COMPUTED: dict[str, tuple[object, ...]] = {
    "hidden_act": ("gelu",),
    "layer_norm_type": ("layer_norm",),
    "position_embedding_type": ("rope",),
    "logn_attention_scale": (False,),
    "pack_qkv": (True,),
}
"""The config's values that the graph computes."""


def plan_gte(source: ModelSourceDirectory, outtype: OutType) -> ConversionPlan:
    """Plan the conversion, from the original's names of tensors, which transformers writes too.

    Raises `ModelFileError` for a variant that is not computed, and for missing or unknown tensors.
    """
    source.refuse_others(_COMPUTED)
    head = read_rank_head(source, _HEAD)
    dimensions = Dimensions(
        **read_sizes(source),
        n_ctx=source.integer("max_position_embeddings"),
        norm_eps=source.number("layer_norm_eps", 1e-12),
        n_token_types=source.integer("type_vocab_size", 1, minimum=0),
    )
    rope = _read_rope(source, dimensions.n_embd // dimensions.n_head)
    ignored = ("embeddings.position_ids", "lm_head.", *(() if head else ("pooler.", "classifier.")))
    prefix = "gte." if source.text("model_type") == "gte" else "new."
    names = TensorNames(prefix, "encoder.layer.", _EMBEDDINGS | dict(head.names if head else {}), _LAYER, ignored)
    tensors = plan_tensors(source, names, _shapes(dimensions, head), outtype)
    vocabulary, pooling = read_stored_tokenizer(source, dimensions.n_vocab), pooling_of(source, head)

    def write_metadata(writer: gguf.GGUFWriter) -> None:
        write_dimensions(writer, dimensions, pooling)
        rope.write(writer)
        writer.add_string("gte.hidden_activation", "gelu")
        if head is not None:
            write_rank_head(writer, head)
        vocabulary.write(writer)

    planned = tuple(_gate_first(tensor, dimensions.n_ff) for tensor in tensors)
    return ConversionPlan("gte", planned, write_metadata, dimensions.n_ctx)


def _gate_first(tensor: PlannedTensor, n_ff: int) -> PlannedTensor:
    """The original has the gate's rows after the others."""
    if not tensor.name.endswith(".ffn_up.weight"):
        return tensor
    return replace(tensor, rows=(*range(n_ff, 2 * n_ff), *range(n_ff)))


def _read_rope(source: ModelSourceDirectory, head_size: int) -> Rope:
    """The original scales frequencies as "NTK" for texts of all lengths: with another base, and one factor for all."""
    scaling: Any = source.config.get("rope_scaling")
    if not isinstance(scaling, dict) or scaling.get("type") != "ntk":
        return read_rope(source)
    if scaling.get("mixed_b") is not None:
        raise ModelFileError(f"{source.path / 'config.json'}: rope_scaling with mixed_b cannot be converted")
    factor = ModelSourceDirectory(source.path, scaling).number("factor")
    theta = source.number("rope_theta", 10_000.0)
    return Rope(theta * factor, scaling={"rope_type": "linear", "factor": factor ** (2 / head_size)})


def _shapes(dimensions: Dimensions, head: RankHead | None) -> Shapes:
    n_embd, n_ff = dimensions.n_embd, dimensions.n_ff
    shapes: Shapes = {"token_embd.weight": (dimensions.n_vocab, n_embd)} | dimensions.norm("token_embd_norm")
    if dimensions.n_token_types:
        shapes["token_types.weight"] = (dimensions.n_token_types, n_embd)
    for layer in range(dimensions.n_layer):
        at = f"blk.{layer}"
        shapes |= linear(f"{at}.attn_qkv", 3 * n_embd, n_embd) | linear(f"{at}.attn_output", n_embd, n_embd)
        shapes |= linear(f"{at}.ffn_up", 2 * n_ff, n_embd, bias=False) | linear(f"{at}.ffn_down", n_embd, n_ff)
        shapes |= dimensions.norm(f"{at}.attn_output_norm") | dimensions.norm(f"{at}.layer_output_norm")
    return shapes | head.shapes(n_embd) if head is not None else shapes
