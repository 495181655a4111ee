"""The encoder of T5, as in sentence-t5 and gtr: RMS norms, relative positions, Dense after the pooling. "t5encoder"."""

from __future__ import annotations

import gguf

from gguf_embed.convert.dense import plan_dense
from gguf_embed.convert.encoder import Shapes, TensorNames, plan_tensors
from gguf_embed.convert.plan import ConversionPlan, OutType
from gguf_embed.convert.source import MAX_LAYERS, ModelSourceDirectory, read_pooling
from gguf_embed.convert.stored_tokenizer import read_stored_tokenizer
from gguf_embed.convert.tokenizer import VocabularyPlan, read_tokenizer
from gguf_embed.gguf_file.constants import POOLING_NUMBERS

ARCHITECTURES = ("T5EncoderModel", "T5Model", "T5ForConditionalGeneration")

_RELATIVE_BIAS = "enc.blk.0.attn_rel_b.weight"
_ATTENTION, _FEED_FORWARD = "layer.0.SelfAttention", "layer.1.DenseReluDense"
_LAYER = {
    "layer.0.layer_norm": "attn_norm",
    f"{_ATTENTION}.q": "attn_q",
    f"{_ATTENTION}.k": "attn_k",
    f"{_ATTENTION}.v": "attn_v",
    f"{_ATTENTION}.o": "attn_o",
    f"{_ATTENTION}.relative_attention_bias": "attn_rel_b",
    "layer.1.layer_norm": "ffn_norm",
    f"{_FEED_FORWARD}.wi": "ffn_up",
    f"{_FEED_FORWARD}.wi_0": "ffn_gate",
    f"{_FEED_FORWARD}.wi_1": "ffn_up",
    f"{_FEED_FORWARD}.wo": "ffn_down",
}
_NAMES = TensorNames(
    prefix="encoder.",
    layers="block.",
    model={"shared": "token_embd", "final_layer_norm": "enc.output_norm"},
    layer=_LAYER,
    layer_name="enc.blk",
    ignored=("embed_tokens.", "decoder.", "lm_head."),
)
_COMPUTED: dict[str, tuple[object, ...]] = {
    "feed_forward_proj": ("relu", "gated-gelu"),
    "dense_act_fn": ("relu", "gelu_new"),
    "relative_attention_max_distance": (128,),  # llama.cpp's, for which a GGUF has no key
}
"""The config's values that llama.cpp computes for "t5encoder" (models/t5encoder.cpp)."""

_N_CTX = 512  # what the original was trained with, for a config that does not say it


def plan_t5(source: ModelSourceDirectory, outtype: OutType) -> ConversionPlan:
    """Plan the conversion; a decoder in the same file is left out.

    With a Dense module, which llama.cpp does not compute here, the original's tokenizer is stored as it is.

    Raises `ModelFileError` for a variant that is not computed, and for missing or unknown tensors.
    """
    source.refuse_others(_COMPUTED)
    n_embd, n_layer = source.integer("d_model"), source.integer("num_layers", maximum=MAX_LAYERS)
    n_head, head_size, n_ff = source.integer("num_heads"), source.integer("d_kv"), source.integer("d_ff")
    n_buckets, n_ctx = source.integer("relative_attention_num_buckets", 32), source.integer("n_positions", _N_CTX)
    n_vocab, norm_eps = source.integer("vocab_size"), source.number("layer_norm_epsilon", 1e-6)
    shapes: Shapes = {
        "token_embd.weight": (n_vocab, n_embd),
        "enc.output_norm.weight": (n_embd,),
        _RELATIVE_BIAS: (n_buckets, n_head),
    }
    for layer in range(n_layer):
        shapes |= _layer_shapes(f"enc.blk.{layer}", n_embd, n_head * head_size, n_ff, is_gated=_is_gated(source))
    tensors = plan_tensors(source, _NAMES, shapes, outtype)
    dense = plan_dense(source, n_embd, outtype)
    vocabulary: VocabularyPlan = (read_stored_tokenizer if dense else read_tokenizer)(source, n_vocab)
    pooling = read_pooling(source)

    def write_metadata(writer: gguf.GGUFWriter) -> None:
        writer.add_context_length(n_ctx)
        writer.add_embedding_length(n_embd)
        writer.add_block_count(n_layer)
        writer.add_feed_forward_length(n_ff)
        writer.add_head_count(n_head)
        writer.add_key_length(head_size)
        writer.add_value_length(head_size)
        writer.add_layer_norm_rms_eps(norm_eps)
        writer.add_causal_attention(False)
        writer.add_relative_attn_buckets_count(n_buckets)
        if pooling is not None:
            writer.add_pooling_type(gguf.PoolingType(POOLING_NUMBERS[pooling]))
        for layer in dense:
            layer.write(writer)
        vocabulary.write(writer)

    planned = (*tensors, *(layer.tensor for layer in dense))
    return ConversionPlan("t5encoder", planned, write_metadata, n_ctx, vocabulary.notes)


def _is_gated(source: ModelSourceDirectory) -> bool:
    return source.text("feed_forward_proj", "relu").startswith("gated-")


def _layer_shapes(at: str, n_embd: int, n_attended: int, n_ff: int, *, is_gated: bool) -> Shapes:
    shapes: Shapes = {f"{at}.attn_{part}.weight": (n_attended, n_embd) for part in ("q", "k", "v")}
    shapes |= {f"{at}.attn_o.weight": (n_embd, n_attended)}
    shapes |= {f"{at}.{norm}.weight": (n_embd,) for norm in ("attn_norm", "ffn_norm")}
    shapes |= {f"{at}.ffn_up.weight": (n_ff, n_embd), f"{at}.ffn_down.weight": (n_embd, n_ff)}
    return shapes | {f"{at}.ffn_gate.weight": (n_ff, n_embd)} if is_gated else shapes
