"""NomicBERT: rotary positions, SwiGLU, a layer norm after each half of a layer. llama.cpp's "nomic-bert"."""

from __future__ import annotations

import gguf

from gguf_embed.convert.encoder import Dimensions, Shapes, TensorNames, plan_tensors, write_dimensions
from gguf_embed.convert.plan import ConversionPlan, OutType
from gguf_embed.convert.source import MAX_LAYERS, ModelSourceDirectory, read_pooling
from gguf_embed.convert.tokenizer import read_tokenizer
from gguf_embed.errors import ModelFileError

ARCHITECTURES = ("NomicBertModel", "NomicBertForPreTraining", "NomicBertForMaskedLM")

_NAMES = TensorNames(
    prefix="bert.",
    layers="encoder.layers.",
    model={
        "embeddings.word_embeddings": "token_embd",
        "embeddings.token_type_embeddings": "token_types",
        "emb_ln": "token_embd_norm",
    },
    layer={
        "attn.Wqkv": "attn_qkv",
        "attn.out_proj": "attn_output",
        "norm1": "attn_output_norm",
        "mlp.fc11": "ffn_up",
        "mlp.fc12": "ffn_gate",
        "mlp.fc2": "ffn_down",
        "norm2": "layer_output_norm",
    },
    ignored=("cls.", "pooler.", "embeddings.position_ids"),
)
_COMPUTED: dict[str, tuple[object, ...]] = {
    "activation_function": ("swiglu",),
    "hidden_act": ("silu",),  # transformers' name for the same
    "prenorm": (False,),
    "causal": (False,),
    "use_rms_norm": (False,),
    "qkv_proj_bias": (False,),
    "mlp_fc1_bias": (False,),
    "mlp_fc2_bias": (False,),
    "rotary_emb_fraction": (1.0,),
    "rotary_emb_interleaved": (False,),
}
"""The config's values that llama.cpp computes for "nomic-bert" (models/bert.cpp)."""

_TRAINED_POSITIONS = 2048
"""For longer texts the model scales its rotations with the length, which llama.cpp does not do."""


def plan_nomic_bert(source: ModelSourceDirectory, architecture: str, outtype: OutType) -> ConversionPlan:
    """Plan the conversion, from the model's own config (GPT-2's names) or transformers' (BERT's names).

    Raises `ModelFileError` for a variant that llama.cpp does not compute, such as v2's mixture of experts.
    """
    for key in ("moe_every_n_layers", "rotary_emb_scale_base"):
        if source.config.get(key):
            raise ModelFileError(
                f"{source.path / 'config.json'}: {architecture} with {key} cannot be converted; "
                "use a ready GGUF of this model"
            )
    source.refuse_others(_COMPUTED)
    dimensions = _dimensions(source)
    tensors = plan_tensors(source, _NAMES, _shapes(dimensions), outtype)
    vocabulary, pooling = read_tokenizer(source, dimensions.n_vocab), read_pooling(source)

    def write_metadata(writer: gguf.GGUFWriter) -> None:
        write_dimensions(writer, dimensions, pooling)
        writer.add_rope_freq_base(_rope_base(source))
        vocabulary.write(writer)

    return ConversionPlan("nomic-bert", tensors, write_metadata, dimensions.n_ctx, vocabulary.notes)


def _dimensions(source: ModelSourceDirectory) -> Dimensions:
    is_own = "n_embd" in source.config
    n_embd, n_layer, n_head, n_ff, n_positions, eps = (
        ("n_embd", "n_layer", "n_head", "n_inner", "n_positions", "layer_norm_epsilon")
        if is_own
        else (
            "hidden_size",
            "num_hidden_layers",
            "num_attention_heads",
            "intermediate_size",
            "max_position_embeddings",
            "layer_norm_eps",
        )
    )
    return Dimensions(
        n_vocab=source.integer("vocab_size"),
        n_embd=source.integer(n_embd),
        n_layer=source.integer(n_layer, maximum=MAX_LAYERS),
        n_head=source.integer(n_head),
        n_ff=source.integer(n_ff),
        n_ctx=min(source.integer(n_positions), source.integer("max_trained_positions", _TRAINED_POSITIONS)),
        norm_eps=source.number(eps, 1e-12),
        n_token_types=source.integer("type_vocab_size", 2),
    )


def _rope_base(source: ModelSourceDirectory) -> float:
    rope = source.config.get("rope_parameters")
    if not isinstance(rope, dict):
        return source.number("rotary_emb_base", 1000.0)
    kind = rope.get("rope_type", "default")
    if kind not in ("default", "dynamic"):  # dynamic: the same within the trained positions
        raise ModelFileError(f"{source.path / 'config.json'}: rope_type {kind!r} cannot be converted")
    return ModelSourceDirectory(source.path, rope).number("rope_theta", 1000.0)


def _shapes(dimensions: Dimensions) -> Shapes:
    n_embd, n_ff = dimensions.n_embd, dimensions.n_ff
    shapes: Shapes = {
        "token_embd.weight": (dimensions.n_vocab, n_embd),
        "token_types.weight": (dimensions.n_token_types, n_embd),
    }
    shapes |= dimensions.norm("token_embd_norm")
    for layer in range(dimensions.n_layer):
        at = f"blk.{layer}"
        shapes[f"{at}.attn_qkv.weight"] = (3 * n_embd, n_embd)
        shapes[f"{at}.attn_output.weight"] = (n_embd, n_embd)
        shapes[f"{at}.ffn_up.weight"] = shapes[f"{at}.ffn_gate.weight"] = (n_ff, n_embd)
        shapes[f"{at}.ffn_down.weight"] = (n_embd, n_ff)
        shapes |= dimensions.norm(f"{at}.attn_output_norm") | dimensions.norm(f"{at}.layer_output_norm")
    return shapes
