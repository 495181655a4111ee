"""LFM2: layers of short convolutions and of attention, as a decoder (LFM2-ColBERT) or an encoder (LFM2.5).

An encoder's tokens see those on both sides: its attention has no mask, and its convolutions are centered.
"""

from __future__ import annotations

from dataclasses import dataclass

import gguf

from gguf_embed.convert.encoder import Shapes, TensorNames, linear, plan_tensors
from gguf_embed.convert.plan import ConversionPlan, MatrixAxes, OutType
from gguf_embed.convert.rope import read_rope
from gguf_embed.convert.safetensors import list_tensors
from gguf_embed.convert.source import MAX_LAYERS, ModelSourceDirectory, read_pooling
from gguf_embed.convert.tokenizer import read_tokenizer
from gguf_embed.errors import ModelFileError
from gguf_embed.gguf_file.constants import POOLING_NUMBERS

ENCODER = "Lfm2BidirectionalModel"
ARCHITECTURES = ("Lfm2Model", ENCODER)

_THETA = 1_000_000.0  # transformers' default for this architecture
_CONVOLUTION, _ATTENTION = "conv", "full_attention"
_GATE = "feed_forward.w1"
_NAMES = TensorNames(
    "model.",
    "layers.",
    {"embed_tokens": "token_embd", "embedding_norm": "token_embd_norm"},  # the latter is the norm of the output
    {
        "operator_norm": "attn_norm",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.out_proj": "attn_output",
        "self_attn.q_layernorm": "attn_q_norm",
        "self_attn.k_layernorm": "attn_k_norm",
        "conv.conv": "shortconv.conv",
        "conv.in_proj": "shortconv.in_proj",
        "conv.out_proj": "shortconv.out_proj",
        "ffn_norm": "ffn_norm",
        _GATE: "ffn_gate",
        "feed_forward.w2": "ffn_down",
        "feed_forward.w3": "ffn_up",
    },
    ("lm_head.",),
)
_KERNEL_AXES: MatrixAxes = ((0,), (1, 2))  # of the convolution, whose second dimension is 1


@dataclass(frozen=True, slots=True)
class _Sizes:
    n_vocab: int
    n_embd: int
    n_head: int
    n_head_kv: int
    n_ff: int
    n_kernel: int
    n_ctx: int
    attends: tuple[bool, ...]  # by layer; the others are convolutions

    @property
    def head_dim(self) -> int:
        return self.n_embd // self.n_head


def plan_lfm2(source: ModelSourceDirectory, architecture: str, outtype: OutType) -> ConversionPlan:
    """Raises `ModelFileError` for a variant that llama.cpp does not compute, and for missing or unknown tensors."""
    source.refuse_unless("conv_bias", (False,))
    sizes = _read_sizes(source)
    kernels = {f"blk.{layer}.shortconv.conv.weight": _KERNEL_AXES for layer in _layers(sizes, attends=False)}
    tensors = plan_tensors(source, _NAMES, _shapes(sizes), outtype, axes=kernels)
    vocabulary, pooling = read_tokenizer(source, sizes.n_vocab), read_pooling(source)
    rope = read_rope(source, _THETA)

    def write_metadata(writer: gguf.GGUFWriter) -> None:
        _write_sizes(writer, sizes)
        writer.add_layer_norm_rms_eps(source.number("norm_eps", 1e-5))
        rope.write(writer)
        if architecture == ENCODER:
            writer.add_causal_attention(False)
        if pooling is not None:
            writer.add_pooling_type(gguf.PoolingType(POOLING_NUMBERS[pooling]))
        vocabulary.write(writer)

    return ConversionPlan("lfm2", tensors, write_metadata, sizes.n_ctx, vocabulary.notes)


def _read_sizes(source: ModelSourceDirectory) -> _Sizes:
    n_head = source.integer("num_attention_heads")
    sizes = _Sizes(
        n_vocab=source.integer("vocab_size"),
        n_embd=source.integer("hidden_size"),
        n_head=n_head,
        n_head_kv=source.integer("num_key_value_heads", n_head),
        n_ff=_n_ff(source),
        n_kernel=source.integer("conv_L_cache", 3, minimum=2),
        n_ctx=source.integer("max_position_embeddings"),
        attends=_attending_layers(source),
    )
    source.refuse_unless("head_dim", (sizes.head_dim,))
    return sizes


def _n_ff(source: ModelSourceDirectory) -> int:
    """The config has a number from which transformers computes it in several steps, so the tensor counts."""
    tensors = list_tensors(source.path)
    names = (f"{prefix}layers.0.{_GATE}.weight" for prefix in ("", _NAMES.prefix))
    found = next((tensors[name] for name in names if name in tensors), None)
    if found is None or len(found.shape) != 2:
        raise ModelFileError(f"{source.path}: tensor layers.0.{_GATE}.weight is missing")
    return found.shape[0]


def _attending_layers(source: ModelSourceDirectory) -> tuple[bool, ...]:
    """By `layer_types`, or the older `full_attn_idxs`. Raises `ModelFileError` unless both kinds are there."""
    n_layer = source.integer("num_hidden_layers", maximum=MAX_LAYERS)
    kinds, numbers = source.config.get("layer_types"), source.config.get("full_attn_idxs")
    if kinds is None and isinstance(numbers, list):
        kinds = [_ATTENTION if layer in numbers else _CONVOLUTION for layer in range(n_layer)]
    if not isinstance(kinds, list) or len(kinds) != n_layer or set(kinds) != {_CONVOLUTION, _ATTENTION}:
        raise ModelFileError(
            f"{source.path / 'config.json'}: expected layer_types with {n_layer} layers, some {_CONVOLUTION} and some "
            f"{_ATTENTION}"
        )
    return tuple(kind == _ATTENTION for kind in kinds)


def _layers(sizes: _Sizes, *, attends: bool) -> list[int]:
    return [layer for layer, found in enumerate(sizes.attends) if found is attends]


def _shapes(sizes: _Sizes) -> Shapes:
    n_embd, n_kv = sizes.n_embd, sizes.n_head_kv * sizes.head_dim
    shapes: Shapes = {"token_embd.weight": (sizes.n_vocab, n_embd), "token_embd_norm.weight": (n_embd,)}
    for layer in range(len(sizes.attends)):
        at = f"blk.{layer}"
        shapes |= {f"{at}.{norm}.weight": (n_embd,) for norm in ("attn_norm", "ffn_norm")}
        for part in ("ffn_gate", "ffn_up"):
            shapes |= linear(f"{at}.{part}", sizes.n_ff, n_embd, bias=False)
        shapes |= linear(f"{at}.ffn_down", n_embd, sizes.n_ff, bias=False)
    for layer in _layers(sizes, attends=True):
        at = f"blk.{layer}"
        for part, n_out in (("attn_q", n_embd), ("attn_k", n_kv), ("attn_v", n_kv), ("attn_output", n_embd)):
            shapes |= linear(f"{at}.{part}", n_out, n_embd, bias=False)
        shapes |= {f"{at}.{norm}.weight": (sizes.head_dim,) for norm in ("attn_q_norm", "attn_k_norm")}
    for layer in _layers(sizes, attends=False):
        at = f"blk.{layer}.shortconv"
        shapes |= {f"{at}.conv.weight": (n_embd, sizes.n_kernel)}
        shapes |= linear(f"{at}.in_proj", 3 * n_embd, n_embd, bias=False)
        shapes |= linear(f"{at}.out_proj", n_embd, n_embd, bias=False)
    return shapes


def _write_sizes(writer: gguf.GGUFWriter, sizes: _Sizes) -> None:
    writer.add_context_length(sizes.n_ctx)
    writer.add_embedding_length(sizes.n_embd)
    writer.add_block_count(len(sizes.attends))
    writer.add_feed_forward_length(sizes.n_ff)
    writer.add_head_count(sizes.n_head)
    writer.add_head_count_kv([sizes.n_head_kv if attends else 0 for attends in sizes.attends])
    writer.add_shortconv_l_cache(sizes.n_kernel)
    writer.add_vocab_size(sizes.n_vocab)
