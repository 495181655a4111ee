"""DeBERTa, version 2 and 3, with shared matrices for contents and distances (mxbai-rerank v1). "deberta-v2"."""

from __future__ import annotations

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
from gguf_embed.convert.plan import ConversionPlan, OutType
from gguf_embed.convert.source import ModelSourceDirectory
from gguf_embed.convert.stored_tokenizer import read_stored_tokenizer
from gguf_embed.errors import ModelFileError

ARCHITECTURES = ("DebertaV2Model", "DebertaV2ForMaskedLM", "DebertaV2ForSequenceClassification")
NAME = "deberta-v2"

_HEAD = {"pooler.dense": "cls", "classifier": "cls.output"}
_MODEL = {
    "embeddings.word_embeddings": "token_embd",
    "embeddings.token_type_embeddings": "token_types",
    "embeddings.LayerNorm": "token_embd_norm",
    "encoder.rel_embeddings": "rel_embd",
    "encoder.LayerNorm": "rel_embd_norm",
}
_LAYER = {
    "attention.self.query_proj": "attn_q",
    "attention.self.key_proj": "attn_k",
    "attention.self.value_proj": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}
_IGNORED = (
    "embeddings.position_embeddings.",
    "embeddings.position_ids",
    "lm_predictions.",
    "mask_predictions.",
    "cls.",
)
_COMPUTED: dict[str, tuple[object, ...]] = {
    "share_att_key": (True,),
    "position_biased_input": (False,),
    "norm_rel_ebd": ("layer_norm",),
    "hidden_act": ("gelu",),
    "pooler_hidden_act": ("gelu",),
    "conv_kernel_size": (0,),
}
"""The config's values that the graph computes. The defaults of the first three are others, so they must be there."""

_REQUIRED = ("relative_attention", "share_att_key", "position_biased_input", "norm_rel_ebd")


def plan_deberta_v2(source: ModelSourceDirectory, outtype: OutType) -> ConversionPlan:
    """Raises `ModelFileError` for a variant that is not computed, and for missing or unknown tensors."""
    _check_config(source)
    head = read_rank_head(source, _HEAD)
    dimensions = Dimensions(
        **read_sizes(source),
        n_ctx=source.integer("max_position_embeddings", 512),
        norm_eps=source.number("layer_norm_eps", 1e-7),
        n_token_types=source.integer("type_vocab_size", 0, minimum=0),
    )
    if head is not None and dimensions.n_token_types > 1:
        raise ModelFileError(
            f"{source.path / 'config.json'}: a DeBERTa cross-encoder with type_vocab_size {dimensions.n_token_types} "
            "cannot be converted (only 0 and 1: its pairs would all get the first type)"
        )
    n_buckets = source.integer("position_buckets")
    max_distance = source.integer("max_relative_positions", -1, minimum=-1)
    max_distance = max_distance if max_distance > 0 else dimensions.n_ctx
    ignored = (*_IGNORED, *(() if head else ("pooler.", "classifier.")))
    names = TensorNames("deberta.", "encoder.layer.", _MODEL | dict(head.names if head else {}), _LAYER, ignored)
    tensors = plan_tensors(source, names, _shapes(dimensions, n_buckets, head), outtype)
    vocabulary, pooling = read_stored_tokenizer(source, dimensions.n_vocab), pooling_of(source, head)

    def write_metadata(writer: gguf.GGUFWriter) -> None:
        write_dimensions(writer, dimensions, pooling)
        writer.add_relative_attn_buckets_count(n_buckets)
        writer.add_uint32(f"{NAME}.attention.max_relative_positions", max_distance)
        if head is not None:
            write_rank_head(writer, head)
        vocabulary.write(writer)

    return ConversionPlan(NAME, tensors, write_metadata, dimensions.n_ctx)


def _check_config(source: ModelSourceDirectory) -> None:
    path = source.path / "config.json"
    for key in _REQUIRED:
        if source.config.get(key) is None:
            raise ModelFileError(f"{path}: a DeBERTa without {key} cannot be converted")
    source.refuse_unless("relative_attention", (True,))
    source.refuse_others(_COMPUTED)
    kinds = source.config.get("pos_att_type")
    named = kinds.split("|") if isinstance(kinds, str) else kinds
    if not isinstance(named, list) or {str(kind).strip() for kind in named} != {"c2p", "p2c"}:
        raise ModelFileError(f"{path}: pos_att_type {kinds!r} cannot be converted (only c2p and p2c together)")


def _shapes(dimensions: Dimensions, n_buckets: int, head: RankHead | None) -> Shapes:
    n_embd, n_ff = dimensions.n_embd, dimensions.n_ff
    shapes: Shapes = {"token_embd.weight": (dimensions.n_vocab, n_embd), "rel_embd.weight": (2 * n_buckets, n_embd)}
    shapes |= dimensions.norm("token_embd_norm") | dimensions.norm("rel_embd_norm")
    if dimensions.n_token_types:
        shapes["token_types.weight"] = (dimensions.n_token_types, n_embd)
    for layer in range(dimensions.n_layer):
        at = f"blk.{layer}"
        for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
            shapes |= linear(f"{at}.{part}", n_embd, n_embd)
        shapes |= linear(f"{at}.ffn_up", n_ff, n_embd) | linear(f"{at}.ffn_down", n_embd, n_ff)
        shapes |= dimensions.norm(f"{at}.attn_output_norm") | dimensions.norm(f"{at}.layer_output_norm")
    return shapes | head.shapes(n_embd) if head is not None else shapes
