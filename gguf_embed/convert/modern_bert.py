"""ModernBERT: rotary positions, local and global layers, gated feed-forward. llama.cpp's "modern-bert"."""

from __future__ import annotations

from typing import Any

import gguf

from gguf_embed.convert.encoder import Dimensions, Shapes, TensorNames, plan_tensors, read_sizes, write_dimensions
from gguf_embed.convert.heads import RankHead, pooling_of, read_rank_head, write_rank_head
from gguf_embed.convert.plan import ConversionPlan, OutType
from gguf_embed.convert.source import ModelSourceDirectory
from gguf_embed.convert.tokenizer import read_tokenizer
from gguf_embed.errors import ModelFileError
from gguf_embed.gguf_file.constants import POOLING_NUMBERS
from gguf_embed.types import Pooling

ARCHITECTURES = ("ModernBertModel", "ModernBertForMaskedLM", "ModernBertForSequenceClassification")

_HEAD = {"head.dense": "cls", "head.norm": "cls.norm", "classifier": "cls.output"}
_MODEL = {
    "embeddings.tok_embeddings": "token_embd",
    "embeddings.norm": "token_embd_norm",
    "final_norm": "output_norm",
}
_LAYER = {
    "attn_norm": "attn_norm",
    "attn.Wqkv": "attn_qkv",
    "attn.Wo": "attn_output",
    "mlp_norm": "ffn_norm",
    "mlp.Wi": "ffn_up",
    "mlp.Wo": "ffn_down",
}
_COMPUTED: dict[str, tuple[object, ...]] = {
    "norm_bias": (False,),
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "hidden_activation": ("gelu", "silu"),
}
_COMPUTED_HEAD: dict[str, tuple[object, ...]] = {
    "classifier_bias": (False,),
    "classifier_activation": ("gelu",),
    "classifier_pooling": ("cls", "mean"),
}
"""The config's values that llama.cpp computes for "modern-bert" (models/modern-bert.cpp)."""

_LOCAL, _GLOBAL = "sliding_attention", "full_attention"


def plan_modern_bert(source: ModelSourceDirectory, architecture: str, outtype: OutType) -> ConversionPlan:
    """Plan the conversion.

    Raises `ModelFileError` for a variant that llama.cpp does not compute, and for missing or unknown tensors.
    """
    source.refuse_others(_COMPUTED)
    head = read_rank_head(source, _HEAD)
    source.refuse_others(_COMPUTED_HEAD if head else {})
    dimensions = Dimensions(
        **read_sizes(source),
        n_ctx=source.integer("max_position_embeddings"),
        norm_eps=source.number("norm_eps", 1e-5),
    )
    names = TensorNames(
        "model.",
        "layers.",
        _MODEL | (_HEAD if head else {}),
        _LAYER,
        () if head else ("head.", "decoder.", "classifier."),
    )
    tensors = plan_tensors(source, names, _shapes(dimensions, head), outtype)
    vocabulary, pooling = read_tokenizer(source, dimensions.n_vocab), pooling_of(source, head)

    def write_metadata(writer: gguf.GGUFWriter) -> None:
        write_dimensions(writer, dimensions, pooling)
        _write_attention(writer, source, dimensions.n_layer)
        if head is not None:
            write_rank_head(writer, head)
            head_pooling = POOLING_NUMBERS[Pooling(source.text("classifier_pooling", "cls"))]
            writer.add_uint32(f"{writer.arch}.classifier.pooling_type", head_pooling)  # llama.cpp's default is mean
        vocabulary.write(writer)

    return ConversionPlan("modern-bert", tensors, write_metadata, dimensions.n_ctx, vocabulary.notes)


def _write_attention(writer: gguf.GGUFWriter, source: ModelSourceDirectory, n_layer: int) -> None:
    writer.add_vocab_size(source.integer("vocab_size"))
    writer.add_sliding_window(source.integer("local_attention", 128))  # the whole window, on both sides together
    writer.add_sliding_window_pattern(global_every(source, n_layer))
    writer.add_rope_scaling_type(gguf.RopeScalingType.NONE)
    writer.add_rope_freq_base(_rope_base(source, _GLOBAL, "global_rope_theta", 160_000.0))
    local_base = _rope_base(source, _LOCAL, "local_rope_theta", 10_000.0)
    writer.add_float32(f"{writer.arch}.rope.freq_base_swa", local_base)
    writer.add_string(f"{writer.arch}.hidden_activation", source.text("hidden_activation", "gelu"))


def global_every(source: ModelSourceDirectory, n_layer: int) -> int:
    """The period n: layers 0, n, 2n… attend to the whole text, the others to their window.

    Raises `ModelFileError` for any other order of layers.
    """
    layers = source.config.get("layer_types")
    if not isinstance(layers, list):
        return source.integer("global_attn_every_n_layers", 3)
    is_global = [layer == _GLOBAL for layer in layers]
    period = next((n for n in range(1, n_layer) if is_global[n : n + 1] == [True]), n_layer)
    if is_global != [number % period == 0 for number in range(n_layer)] or any(
        layer not in (_LOCAL, _GLOBAL) for layer in layers
    ):
        raise ModelFileError(
            f"{source.path / 'config.json'}: layer_types cannot be converted (only {_GLOBAL} in every n-th layer)"
        )
    return period


def _rope_base(source: ModelSourceDirectory, layers: str, own_key: str, default: float) -> float:
    """The base from transformers' newer `rope_parameters`, or from the model's older key."""
    parameters = source.config.get("rope_parameters")
    rope: Any = parameters.get(layers) if isinstance(parameters, dict) else None
    if not isinstance(rope, dict):
        return source.number(own_key, default)
    if rope.get("rope_type", "default") != "default":
        raise ModelFileError(
            f"{source.path / 'config.json'}: rope_type {rope['rope_type']!r} cannot be converted (only default)"
        )
    return ModelSourceDirectory(source.path, rope).number("rope_theta", default)


def _shapes(dimensions: Dimensions, head: RankHead | None) -> Shapes:
    n_embd, n_ff = dimensions.n_embd, dimensions.n_ff
    shapes: Shapes = {"token_embd.weight": (dimensions.n_vocab, n_embd)}
    shapes |= dimensions.norm("token_embd_norm", bias=False) | dimensions.norm("output_norm", bias=False)
    for layer in range(dimensions.n_layer):
        at = f"blk.{layer}"
        if layer > 0:  # the first layer's is the identity
            shapes |= dimensions.norm(f"{at}.attn_norm", bias=False)
        shapes[f"{at}.attn_qkv.weight"] = (3 * n_embd, n_embd)
        shapes[f"{at}.attn_output.weight"] = (n_embd, n_embd)
        shapes |= dimensions.norm(f"{at}.ffn_norm", bias=False)
        shapes[f"{at}.ffn_up.weight"] = (2 * n_ff, n_embd)
        shapes[f"{at}.ffn_down.weight"] = (n_embd, n_ff)
    if head is not None:
        shapes |= head.shapes(n_embd) | dimensions.norm("cls.norm", bias=False)
        del shapes["cls.bias"]
    return shapes
