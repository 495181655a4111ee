"""CLIP: both towers in one file, in the layout of monatis/clip.cpp, with the tokenizer's merges.

The feed-forward layers' matrices are called as elsewhere (`ffn_up`, then `ffn_down`), not the other way round as by
clip.cpp's own converter; who reads such files tells the two apart by their shapes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gguf

from gguf_embed.convert.byte_bpe import join_merge
from gguf_embed.convert.encoder import Shapes, linear, plan_tensors
from gguf_embed.convert.plan import ConversionPlan, OutType
from gguf_embed.convert.safetensors import list_tensors, read_float32
from gguf_embed.convert.source import MAX_LAYERS, ModelSourceDirectory, read_json
from gguf_embed.errors import ModelFileError
from gguf_embed.gguf_file.towers import ACTIVATIONS, BOTH

ARCHITECTURES = ("CLIPModel",)

_TEXT_DEFAULTS: Mapping[str, Any] = {
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "max_position_embeddings": 77,
    "vocab_size": 49408,
    "layer_norm_eps": 1e-5,
    "hidden_act": "quick_gelu",
}
_IMAGE_DEFAULTS: Mapping[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 224,
    "patch_size": 32,
    "layer_norm_eps": 1e-5,
    "hidden_act": "quick_gelu",
}
"""Of Hugging Face's configuration, which leaves out what is a default."""

_ACTIVATIONS = ("quick_gelu", "gelu")
_BICUBIC = 3
_MODEL = {
    "text_model.embeddings.token_embedding": "t.token_embd",
    "text_model.embeddings.position_embedding": "t.position_embd",
    "text_model.final_layer_norm": "t.post_ln",
    "text_projection": "text_projection",
    "vision_model.embeddings.patch_embedding": "v.patch_embd",
    "vision_model.embeddings.position_embedding": "v.position_embd",
    "vision_model.pre_layrnorm": "v.pre_ln",
    "vision_model.post_layernorm": "v.post_ln",
    "visual_projection": "visual_projection",
}
_LAYER = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.out_proj": "attn_out",
    "layer_norm1": "ln1",
    "layer_norm2": "ln2",
    "mlp.fc1": "ffn_up",
    "mlp.fc2": "ffn_down",
}
_TOWERS = {"text_model.encoder.layers.": "t", "vision_model.encoder.layers.": "v"}
_IGNORED = (
    *("logit_scale", "logit_bias"),
    "text_model.embeddings.position_ids",
    "vision_model.embeddings.position_ids",
)


class TowerNames:
    """The names of both towers' tensors: original → GGUF."""

    def find(self, original: str) -> str | None:
        """The GGUF name with suffix; "" for a tensor that is not needed; None for an unknown one."""
        if original in _IGNORED:
            return ""
        if original == "vision_model.embeddings.class_embedding":
            return "v.class_embd"
        stem, _, suffix = original.rpartition(".")
        if stem in _MODEL:
            return f"{_MODEL[stem]}.{suffix}"
        for beginning, tower in _TOWERS.items():
            number, _, part = stem.removeprefix(beginning).partition(".")
            if stem.startswith(beginning) and number.isdecimal() and part in _LAYER:
                return f"{tower}.blk.{number}.{_LAYER[part]}.{suffix}"
        return None


@dataclass(frozen=True, slots=True)
class Tower:
    """The sizes that both towers have."""

    config: ModelSourceDirectory
    n_embd: int
    n_layer: int
    n_head: int
    n_ff: int
    eps: float
    activation: str

    def write(self, writer: gguf.GGUFWriter, prefix: str, n_out: int) -> None:
        writer.add_uint32(f"{prefix}.embedding_length", self.n_embd)
        writer.add_uint32(f"{prefix}.feed_forward_length", self.n_ff)
        writer.add_uint32(f"{prefix}.block_count", self.n_layer)
        writer.add_uint32(f"{prefix}.attention.head_count", self.n_head)
        writer.add_float32(f"{prefix}.attention.layer_norm_epsilon", self.eps)
        writer.add_string(f"{prefix}.hidden_activation", self.activation)
        writer.add_uint32(f"{prefix}.projection_dim", n_out)

    def shapes(self, prefix: str) -> Shapes:
        """Of its layers and its last norm."""
        shapes = norm(f"{prefix}.post_ln", self.n_embd)
        for number in range(self.n_layer):
            at = f"{prefix}.blk.{number}"
            for part in ("attn_q", "attn_k", "attn_v", "attn_out"):
                shapes |= linear(f"{at}.{part}", self.n_embd, self.n_embd)
            shapes |= norm(f"{at}.ln1", self.n_embd) | norm(f"{at}.ln2", self.n_embd)
            shapes |= linear(f"{at}.ffn_up", self.n_ff, self.n_embd) | linear(f"{at}.ffn_down", self.n_embd, self.n_ff)
        return shapes


@dataclass(frozen=True, slots=True)
class Pictures:
    """How the original prepares a picture."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def write(self, writer: gguf.GGUFWriter, size: int, patch: int, resize: str) -> None:
        writer.add_uint32("clip.vision.image_size", size)
        writer.add_uint32("clip.vision.patch_size", patch)
        writer.add_array("clip.vision.image_mean", list(self.mean))
        writer.add_array("clip.vision.image_std", list(self.std))
        writer.add_string("clip.vision.resize", resize)


def plan_clip(source: ModelSourceDirectory, outtype: OutType) -> ConversionPlan:
    """Plan the conversion. Raises `ModelFileError` for what no engine computes, and for missing or unknown tensors."""
    text, image = (
        read_tower(source, key, defaults, _ACTIVATIONS)
        for key, defaults in (("text_config", _TEXT_DEFAULTS), ("vision_config", _IMAGE_DEFAULTS))
    )
    n_out = source.integer("projection_dim", 512)
    n_ctx, n_vocab = text.config.integer("max_position_embeddings"), text.config.integer("vocab_size")
    size, patch = image.config.integer("image_size"), image.config.integer("patch_size")
    n_rows = (size // patch) ** 2 + 1
    shapes: Shapes = {
        "t.token_embd.weight": (n_vocab, text.n_embd),
        "t.position_embd.weight": (n_ctx, text.n_embd),
        "text_projection.weight": (n_out, text.n_embd),
        "v.class_embd": (image.n_embd,),
        "v.patch_embd.weight": (image.n_embd, 3, patch, patch),
        "v.position_embd.weight": (n_rows, image.n_embd),
        "visual_projection.weight": (n_out, image.n_embd),
    }
    shapes |= text.shapes("t") | image.shapes("v") | norm("v.pre_ln", image.n_embd)
    tensors = plan_tensors(source, TowerNames(), shapes, outtype)
    pictures = read_pictures(source, size, is_cropped=True)
    tokens, merges = _read_vocabulary(source, n_vocab)
    scale = read_scalar(source, "logit_scale")

    def write_metadata(writer: gguf.GGUFWriter) -> None:
        writer.add_bool("clip.has_text_encoder", True)
        writer.add_bool("clip.has_vision_encoder", True)
        writer.add_bool("clip.use_gelu", text.activation == "gelu")
        text.write(writer, "clip.text", n_out)
        writer.add_uint32("clip.text.context_length", n_ctx)
        image.write(writer, "clip.vision", n_out)
        pictures.write(writer, size, patch, "crop")
        if scale is not None:
            writer.add_float32("clip.logit_scale", scale)
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("clip")
        writer.add_token_list(tokens)
        writer.add_token_merges(merges)

    return ConversionPlan(BOTH, tensors, write_metadata, n_ctx)


def read_tower(
    source: ModelSourceDirectory, key: str, defaults: Mapping[str, Any], activations: tuple[str, ...]
) -> Tower:
    """Raises `ModelFileError` for a configuration without the tower, and for an activation that is not computed."""
    stored = source.config.get(key)
    if not isinstance(stored, dict):
        raise ModelFileError(f"{source.path / 'config.json'}: {key} is {stored!r}, expected an object")
    given = {name: value for name, value in stored.items() if value is not None}
    config = ModelSourceDirectory(source.path, {**defaults, **given})
    config.refuse_unless("hidden_act", activations)
    return Tower(
        config=config,
        n_embd=config.integer("hidden_size"),
        n_layer=config.integer("num_hidden_layers", maximum=MAX_LAYERS),
        n_head=config.integer("num_attention_heads"),
        n_ff=config.integer("intermediate_size"),
        eps=config.number("layer_norm_eps"),
        activation=ACTIVATIONS.get(config.text("hidden_act"), config.text("hidden_act")),
    )


def norm(name: str, n_embd: int) -> Shapes:
    return {f"{name}.weight": (n_embd,), f"{name}.bias": (n_embd,)}


def read_scalar(source: ModelSourceDirectory, name: str) -> float | None:
    """A tensor of one number; None if the model has none."""
    tensor = list_tensors(source.path).get(name)
    return None if tensor is None else float(read_float32(tensor).reshape(-1)[0])


def read_pictures(source: ModelSourceDirectory, size: int, *, is_cropped: bool) -> Pictures:
    """From preprocessor_config.json. Raises `ModelFileError` for other steps than CLIP's, or SigLIP's."""
    path = source.path / "preprocessor_config.json"
    config = read_json(path)
    asked = config.get("size")
    sizes = {_side(asked, "shortest_edge"), _side(config.get("crop_size"), "height")}
    if not is_cropped:
        sizes = {_side(asked, "height"), _side(asked, "width")}
    if sizes != {size} or config.get("resample", _BICUBIC) != _BICUBIC:
        raise ModelFileError(
            f"{path}: size {config.get('size')}, crop_size {config.get('crop_size')} and resample "
            f"{config.get('resample')} cannot be converted (only {size} for both, and 3, the bicubic filter)"
        )
    found = []
    for key in ("image_mean", "image_std"):
        values = config.get(key)
        if not isinstance(values, list) or len(values) != 3:
            raise ModelFileError(f"{path}: {key} is {values!r}, expected three numbers")
        found.append(tuple(map(float, values)))
    return Pictures(*found)


def _side(value: object, key: str) -> object:
    return value.get(key) if isinstance(value, dict) else value


def _read_vocabulary(source: ModelSourceDirectory, n_vocab: int) -> tuple[list[str], list[str]]:
    """Entries and merges from tokenizer.json, or from vocab.json and merges.txt. Raises `ModelFileError`."""
    path = source.path / "tokenizer.json"
    if path.is_file():
        fast = read_json(path)
        model = fast.get("model")
        if not isinstance(model, dict) or model.get("end_of_word_suffix") != "</w>":
            raise ModelFileError(f"{path} is not CLIP's tokenizer, whose words end in </w>")
        ids = dict(model["vocab"]) | {token["content"]: token["id"] for token in fast.get("added_tokens") or []}
        merges = [join_merge(merge) for merge in model["merges"]]
    else:
        path = source.path / "vocab.json"
        ids = read_json(path)
        lines = (source.path / "merges.txt").read_text(encoding="utf-8").splitlines()
        merges = [line for line in lines if line and not line.startswith("#version")]
    entries = {int(token): str(text) for text, token in ids.items()}
    missing = next((token for token in range(n_vocab) if token not in entries), None)
    if missing is not None or len(entries) > n_vocab:
        raise ModelFileError(f"{path} has {len(entries)} entries, expected one for each of {n_vocab} ids")
    return [entries[token] for token in range(n_vocab)], merges
