"""Decoders for embeddings or scores: Qwen2, Qwen3 (-Embedding, -Reranker, jina-reranker-v3), EmbeddingGemma."""

from __future__ import annotations

from dataclasses import dataclass, replace

import gguf

from gguf_embed.convert import listwise_head
from gguf_embed.convert.dense import plan_dense
from gguf_embed.convert.encoder import Shapes, TensorNames, linear, plan_tensors
from gguf_embed.convert.plan import ConversionPlan, OutType
from gguf_embed.convert.rope import read_rope
from gguf_embed.convert.source import MAX_LAYERS, ModelSourceDirectory, read_pooling
from gguf_embed.convert.tokenizer import read_tokenizer
from gguf_embed.convert.yes_no_head import is_yes_no_reranker, plan_yes_no_head, write_yes_no_head
from gguf_embed.errors import ModelFileError
from gguf_embed.gguf_file.constants import POOLING_NUMBERS
from gguf_embed.types import Pooling

ARCHITECTURES = (
    *("Qwen3Model", "Qwen3ForCausalLM", "Qwen2Model", "Qwen2ForCausalLM", "Gemma3TextModel"),
    listwise_head.ARCHITECTURE,
)

_LLAMA_NAMES = {
    "Qwen2": "qwen2",
    "Qwen3": "qwen3",
    "Gemma3": "gemma-embedding",
    listwise_head.ARCHITECTURE: "qwen3",
}
_MODEL = {"embed_tokens": "token_embd", "norm": "output_norm"}
_LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_HEAD_NORMS = {"self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm"}
_QWEN_NORMS = {"post_attention_layernorm": "ffn_norm"}
_GEMMA_NORMS = {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
_LAYERS = {
    "qwen2": _LAYER | _QWEN_NORMS,
    "qwen3": _LAYER | _HEAD_NORMS | _QWEN_NORMS,
    "gemma-embedding": _LAYER | _HEAD_NORMS | _GEMMA_NORMS,
}


@dataclass(frozen=True, slots=True)
class DecoderSizes:
    """The sizes of a decoder."""

    n_vocab: int
    n_embd: int
    n_layer: int
    n_head: int
    n_head_kv: int
    head_dim: int
    n_ff: int
    n_ctx: int


def plan_decoder(source: ModelSourceDirectory, outtype: OutType) -> ConversionPlan:
    """Check the config and decide names and types of all tensors.

    The head that predicts the next token is left out: embedding does not use it, and llama.cpp substitutes the token
    embeddings (`TENSOR_DUPLICATED`).
    Raises `ModelFileError` for a variant that llama.cpp does not compute, and for missing or unknown tensors.
    """
    architecture = _llama_name(source)
    sizes = _read_sizes(source)
    if architecture == "gemma-embedding":
        return _plan_gemma(source, sizes, outtype)
    return _plan_qwen(source, architecture, sizes, outtype)


def _llama_name(source: ModelSourceDirectory) -> str:
    declared = next(name for name in source.config.get("architectures") or () if name in ARCHITECTURES)
    return next(ours for theirs, ours in _LLAMA_NAMES.items() if declared.startswith(theirs))


def _plan_qwen(
    source: ModelSourceDirectory, architecture: str, sizes: DecoderSizes, outtype: OutType
) -> ConversionPlan:
    _check_qwen(source, architecture)
    names, is_listwise = _names(architecture), listwise_head.is_listwise(source)
    if is_listwise:
        names = replace(names, ignored=(*names.ignored, listwise_head.TENSORS))
    tensors = plan_tensors(source, names, _shapes(architecture, sizes), outtype)
    vocabulary, rope = read_tokenizer(source, sizes.n_vocab), read_rope(source)
    answers = architecture == "qwen3" and not is_listwise and is_yes_no_reranker(source)
    head = plan_yes_no_head(source) if answers else None
    pooling = Pooling.RANK if head is not None else read_pooling(source)

    def write_metadata(writer: gguf.GGUFWriter) -> None:
        _write_sizes(writer, sizes)
        writer.add_layer_norm_rms_eps(source.number("rms_norm_eps", 1e-6))
        rope.write(writer)
        if pooling is not None:
            writer.add_pooling_type(gguf.PoolingType(POOLING_NUMBERS[pooling]))
        if head is not None:
            write_yes_no_head(writer)
        vocabulary.write(writer)

    planned = tensors if head is None else (*tensors, head)
    return ConversionPlan(architecture, planned, write_metadata, sizes.n_ctx, vocabulary.notes)


def _plan_gemma(source: ModelSourceDirectory, sizes: DecoderSizes, outtype: OutType) -> ConversionPlan:
    _check_gemma(source, sizes)
    architecture = "gemma-embedding"
    tensors = plan_tensors(source, _names(architecture), _shapes(architecture, sizes), outtype)
    # Gemma multiplies by 1 + weight, llama.cpp by the weight
    shifted = tuple(replace(tensor, add=1.0) if tensor.name.endswith("norm.weight") else tensor for tensor in tensors)
    dense = plan_dense(source, sizes.n_embd, outtype)
    vocabulary, pooling, rope = read_tokenizer(source, sizes.n_vocab), read_pooling(source), read_rope(source)
    n_window, slides = source.integer("sliding_window"), _sliding_layers(source, sizes.n_layer)

    def write_metadata(writer: gguf.GGUFWriter) -> None:
        _write_sizes(writer, sizes)
        writer.add_layer_norm_rms_eps(source.number("rms_norm_eps", 1e-6))
        rope.write(writer)
        writer.add_causal_attention(False)
        writer.add_sliding_window(n_window)
        writer.add_sliding_window_pattern(slides)
        for layer in dense:
            layer.write(writer)
        if pooling is not None:
            writer.add_pooling_type(gguf.PoolingType(POOLING_NUMBERS[pooling]))
        vocabulary.write(writer)

    planned = (*shifted, *(layer.tensor for layer in dense))
    return ConversionPlan(architecture, planned, write_metadata, sizes.n_ctx, vocabulary.notes)


def _check_qwen(source: ModelSourceDirectory, architecture: str) -> None:
    source.refuse_unless("hidden_act", ("silu",))
    source.refuse_unless("use_sliding_window", (False,))
    source.refuse_unless("is_causal", (True,))
    if architecture == "qwen3":
        source.refuse_unless("attention_bias", (False,))
    own_code = source.config.get("auto_map")
    if isinstance(own_code, dict) and "AutoModel" in own_code and not listwise_head.is_listwise(source):
        raise ModelFileError(
            f"{source.path / 'config.json'}: the model has its own code ({own_code['AutoModel']}), which cannot be "
            "converted, as it may attend in both directions like gte-Qwen2; use a ready GGUF of this model"
        )


def _check_gemma(source: ModelSourceDirectory, sizes: DecoderSizes) -> None:
    source.refuse_unless("hidden_activation", ("gelu_pytorch_tanh",))
    source.refuse_unless("attention_bias", (False,))
    source.refuse_unless("attn_logit_softcapping", ())
    source.refuse_unless("query_pre_attn_scalar", (sizes.head_dim,))
    if source.config.get("use_bidirectional_attention") is not True:
        raise ModelFileError(
            f"{source.path / 'config.json'}: use_bidirectional_attention is not true; llama.cpp computes only "
            "bidirectional attention for Gemma embeddings (EmbeddingGemma)"
        )
    if read_rope(source).scaling:
        raise ModelFileError(f"{source.path / 'config.json'}: rope_scaling cannot be converted for Gemma embeddings")


def _sliding_layers(source: ModelSourceDirectory, n_layer: int) -> list[bool]:
    """Which layers have a sliding window: by `layer_types`, or all but every sixth (`sliding_window_pattern`).

    Raises `ModelFileError` unless there are both kinds: llama.cpp makes a mask for each and ends the process if no
    layer reads one of them.
    """
    types = source.config.get("layer_types")
    if types is None:
        period = source.integer("_sliding_window_pattern", source.integer("sliding_window_pattern", 6))
        types = ["full_attention" if (layer + 1) % period == 0 else "sliding_attention" for layer in range(n_layer)]
    if not isinstance(types, list) or len(types) != n_layer or len(set(types)) != 2:
        raise ModelFileError(
            f"{source.path / 'config.json'}: expected layer_types with {n_layer} layers, some sliding_attention "
            "and some full_attention"
        )
    return [kind == "sliding_attention" for kind in types]


def _read_sizes(source: ModelSourceDirectory) -> DecoderSizes:
    n_embd, n_head = source.integer("hidden_size"), source.integer("num_attention_heads")
    return DecoderSizes(
        n_vocab=source.integer("vocab_size"),
        n_embd=n_embd,
        n_layer=source.integer("num_hidden_layers", maximum=MAX_LAYERS),
        n_head=n_head,
        n_head_kv=source.integer("num_key_value_heads", n_head),
        head_dim=source.integer("head_dim") if source.config.get("head_dim") else n_embd // n_head,
        n_ff=source.integer("intermediate_size"),
        n_ctx=source.integer("max_position_embeddings"),
    )


def _names(architecture: str) -> TensorNames:
    return TensorNames("model.", "layers.", _MODEL, _LAYERS[architecture], ("lm_head.",))


def _shapes(architecture: str, sizes: DecoderSizes) -> Shapes:
    shapes: Shapes = {"token_embd.weight": (sizes.n_vocab, sizes.n_embd), "output_norm.weight": (sizes.n_embd,)}
    n_attn, n_kv = sizes.n_head * sizes.head_dim, sizes.n_head_kv * sizes.head_dim
    norms = {name: sizes.n_embd for name in _LAYERS[architecture].values() if name.endswith("norm")}
    norms |= {name: sizes.head_dim for name in _HEAD_NORMS.values() if name in norms}
    for layer in range(sizes.n_layer):
        at = f"blk.{layer}"
        for part, n_out in (("attn_q", n_attn), ("attn_k", n_kv), ("attn_v", n_kv)):
            shapes |= linear(f"{at}.{part}", n_out, sizes.n_embd, bias=architecture == "qwen2")
        shapes |= linear(f"{at}.attn_output", sizes.n_embd, n_attn, bias=False)
        for part in ("ffn_gate", "ffn_up"):
            shapes |= linear(f"{at}.{part}", sizes.n_ff, sizes.n_embd, bias=False)
        shapes |= linear(f"{at}.ffn_down", sizes.n_embd, sizes.n_ff, bias=False)
        shapes |= {f"{at}.{name}.weight": (width,) for name, width in norms.items()}
    return shapes


def _write_sizes(writer: gguf.GGUFWriter, sizes: DecoderSizes) -> None:
    writer.add_context_length(sizes.n_ctx)
    writer.add_embedding_length(sizes.n_embd)
    writer.add_block_count(sizes.n_layer)
    writer.add_feed_forward_length(sizes.n_ff)
    writer.add_head_count(sizes.n_head)
    writer.add_head_count_kv(sizes.n_head_kv)
    writer.add_key_length(sizes.head_dim)
    writer.add_value_length(sizes.head_dim)
