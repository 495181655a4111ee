"""SigLIP: both towers in one file, in the layout of `clip.py`, with an attention pool instead of a class row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gguf

from gguf_embed.convert.clip import TowerNames, norm, read_pictures, read_scalar, read_tower
from gguf_embed.convert.encoder import Shapes, linear, plan_tensors
from gguf_embed.convert.plan import ConversionPlan, OutType
from gguf_embed.convert.sentencepiece_file import read_sentencepiece
from gguf_embed.convert.source import ModelSourceDirectory
from gguf_embed.errors import ModelFileError
from gguf_embed.gguf_file.towers import BOTH

ARCHITECTURES = ("SiglipModel",)

_DEFAULTS: Mapping[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "layer_norm_eps": 1e-6,
    "hidden_act": "gelu_pytorch_tanh",
}
_TEXT_DEFAULTS = {**_DEFAULTS, "max_position_embeddings": 64, "vocab_size": 32_000}
_IMAGE_DEFAULTS = {**_DEFAULTS, "image_size": 224, "patch_size": 16}
_ACTIVATIONS = ("gelu_pytorch_tanh", "gelu")
_NAMES = {
    "text_model.head.weight": "text_projection.weight",
    "text_model.head.bias": "text_projection.bias",
    "vision_model.head.probe": "v.head.probe",
    "vision_model.head.attention.in_proj_weight": "v.head.attn.in_proj.weight",
    "vision_model.head.attention.in_proj_bias": "v.head.attn.in_proj.bias",
}
_HEAD = {"attention.out_proj": "attn.o", "layernorm": "ln", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}
_HEAD_PREFIX = "vision_model.head."


class _Names(TowerNames):
    """CLIP's, and those of the heads."""

    def find(self, original: str) -> str | None:
        if original in _NAMES:
            return _NAMES[original]
        stem, _, suffix = original.removeprefix(_HEAD_PREFIX).rpartition(".")
        if original.startswith(_HEAD_PREFIX) and stem in _HEAD:
            return f"v.head.{_HEAD[stem]}.{suffix}"
        return super().find(original)


def plan_siglip(source: ModelSourceDirectory, outtype: OutType) -> ConversionPlan:
    """Plan the conversion. Raises `ModelFileError` for what no engine computes, and for missing or unknown tensors."""
    text = read_tower(source, "text_config", _TEXT_DEFAULTS, _ACTIVATIONS)
    image = read_tower(source, "vision_config", _IMAGE_DEFAULTS, _ACTIVATIONS)
    n_ctx, n_vocab = text.config.integer("max_position_embeddings"), text.config.integer("vocab_size")
    size, patch = image.config.integer("image_size"), image.config.integer("patch_size")
    n_out = text.config.integer("projection_size", text.n_embd)
    shapes: Shapes = {
        "t.token_embd.weight": (n_vocab, text.n_embd),
        "t.position_embd.weight": (n_ctx, text.n_embd),
        "v.patch_embd.weight": (image.n_embd, 3, patch, patch),
        "v.patch_embd.bias": (image.n_embd,),
        "v.position_embd.weight": ((size // patch) ** 2, image.n_embd),
        "v.head.probe": (1, 1, image.n_embd),
    }
    shapes |= text.shapes("t") | image.shapes("v") | linear("text_projection", n_out, text.n_embd)
    shapes |= linear("v.head.attn.in_proj", 3 * image.n_embd, image.n_embd) | norm("v.head.ln", image.n_embd)
    shapes |= linear("v.head.attn.o", image.n_embd, image.n_embd)
    shapes |= linear("v.head.mlp.fc1", image.n_ff, image.n_embd) | linear("v.head.mlp.fc2", image.n_embd, image.n_ff)
    tensors = plan_tensors(source, _Names(), shapes, outtype)
    pictures = read_pictures(source, size, is_cropped=False)
    vocabulary = read_sentencepiece(source.path / "spiece.model")
    if len(vocabulary.pieces) != n_vocab:
        raise ModelFileError(f"{source.path}: spiece.model has {len(vocabulary.pieces)} pieces, expected {n_vocab}")
    scale, bias = read_scalar(source, "logit_scale"), read_scalar(source, "logit_bias")

    def write_metadata(writer: gguf.GGUFWriter) -> None:
        writer.add_bool("clip.has_text_encoder", True)
        writer.add_bool("clip.has_vision_encoder", True)
        text.write(writer, "clip.text", n_out)
        writer.add_uint32("clip.text.context_length", n_ctx)
        writer.add_bool("clip.text.attention.causal", False)
        image.write(writer, "clip.vision", image.n_embd)
        pictures.write(writer, size, patch, "squash")
        for name, value in (("clip.logit_scale", scale), ("clip.logit_bias", bias)):
            if value is not None:
                writer.add_float32(name, value)
        writer.add_tokenizer_model("t5")
        writer.add_tokenizer_pre("siglip")
        writer.add_token_list(list(vocabulary.pieces))
        writer.add_token_scores(list(vocabulary.scores))
        writer.add_token_types(list(vocabulary.types))
        if vocabulary.charsmap:
            writer.add_precompiled_charsmap(vocabulary.charsmap)

    return ConversionPlan(BOTH, tensors, write_metadata, n_ctx)
