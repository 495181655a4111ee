"""Tiny CLIP and nomic-embed models in the layouts of other converters, made of our own file of the same model."""

from __future__ import annotations

import re
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

from gguf_embed.convert.convert import convert_directory
from tests.data.tower_directories import write_directory

Tensors = dict[str, NDArray[np.float32]]

_CRISP_PARTS = {"attn_q": "attn.q", "attn_k": "attn.k", "attn_v": "attn.v", "attn_out": "attn.o"}
_CRISP_PARTS |= {"ffn_up": "ffn.fc1", "ffn_down": "ffn.fc2", "ln1": "ln1", "ln2": "ln2"}
_CRISP_TEXT = {"post_ln": "final_ln", "text_projection": "text_proj"}
_CRISP_NOMIC = {"head.probe": "nomic_pool.latent", "head.attn.": "nomic_pool.", "head.": "nomic_pool."}
_CRISP_NOMIC |= {"blk.": "enc.", "attn_qkv": "attn.qkv", "attn_out": "attn.o", "class_embd": "cls_token"}
_CRISP_NOMIC |= {"ffn_up": "ffn.fc11", "ffn_gate": "ffn.fc12", "ffn_down": "ffn.fc2", "ffn_norm": "ffn.norm"}
_CRISP_NOMIC |= {"patch_embd": "patch_embed"}
_CRISP_IMAGE = {"patch_embd": "patch_embed", "class_embd": "cls_token", "visual_projection": "visual_proj"}


def write_own(name: str, folder: Path, outtype: str = "f32") -> Path:
    """As `gguf-embed convert` writes it. `name` is a folder of `tests/data/towers`."""
    path = folder / f"{name}.gguf"
    convert_directory(write_directory(name, folder / f"{name}-source"), path, outtype, report=lambda line: None)
    return path


def write_clip_cpp(own: Path, path: Path, towers: str = "tv") -> Path:
    """As monatis/clip.cpp does: no merges, the feed-forward layers' names swapped. `towers`: which of t and v."""
    reader = gguf.GGUFReader(own)
    writer = gguf.GGUFWriter(path, "clip")
    writer.add_bool("clip.has_text_encoder", "t" in towers)
    writer.add_bool("clip.has_vision_encoder", "v" in towers)
    writer.add_bool("clip.use_gelu", bool(_value(reader, "clip.use_gelu")))
    of_tower = {"t": "clip.text.", "v": "clip.vision."}
    for key, field in reader.fields.items():
        if key.startswith(tuple(of_tower[tower] for tower in towers)) and not key.endswith("hidden_activation"):
            writer.add_key_value(key, field.contents(), field.types[0], *field.types[1:2])
    if "t" in towers:
        writer.add_token_list(_value(reader, "tokenizer.ggml.tokens"))
    ends = {"t": "text_projection", "v": "visual_projection"}
    for tensor in reader.tensors:
        if tensor.name.startswith(tuple(f"{tower}." for tower in towers) + tuple(ends[tower] for tower in towers)):
            writer.add_tensor(_swapped(tensor.name), np.array(tensor.data, np.float32))
    return _close(writer, path)


def write_crisp_text(own: Path, path: Path) -> Path:
    """As CrispEmbed's convert-clip-text-to-gguf.py does."""
    reader = gguf.GGUFReader(own)
    writer = gguf.GGUFWriter(path, "clip_text")
    _write_crisp_sizes(reader, writer, "clip_text", "clip.text")
    tokens = _value(reader, "tokenizer.ggml.tokens")
    writer.add_uint32("clip_text.vocab_size", len(tokens))
    writer.add_uint32("clip_text.max_position_embeddings", _value(reader, "clip.text.context_length"))
    writer.add_bool("clip_text.causal", True)
    writer.add_bool("clip_text.has_head", False)
    writer.add_array("tokenizer.ggml.tokens", tokens)
    writer.add_array("tokenizer.ggml.scores", [-float(token) for token in range(len(tokens))])
    writer.add_uint32("tokenizer.ggml.type", 1)
    writer.add_array("tokenizer.ggml.merges", _value(reader, "tokenizer.ggml.merges"))
    _write_crisp_tensors(reader, writer, "t.", "text_projection", _CRISP_TEXT)
    return _close(writer, path)


def write_crisp_image(own: Path, path: Path) -> Path:
    """As CrispEmbed's convert-siglip-to-gguf.py does for a CLIP."""
    reader = gguf.GGUFReader(own)
    writer = gguf.GGUFWriter(path, "vit")
    _write_crisp_sizes(reader, writer, "vit", "clip.vision")
    _write_crisp_pictures(reader, writer, "clip")
    _write_crisp_tensors(reader, writer, "v.", "visual_projection", _CRISP_IMAGE)
    return _close(writer, path)


def write_crisp_nomic(own: Path, path: Path) -> Path:
    """As CrispEmbed's convert-nomic-vision-to-gguf.py does."""
    reader = gguf.GGUFReader(own)
    writer = gguf.GGUFWriter(path, "vit")
    _write_crisp_sizes(reader, writer, "vit", "clip.vision")
    _write_crisp_pictures(reader, writer, "nomic")
    writer.add_float32("vit.mlp_ln_eps", _value(reader, "clip.vision.feed_forward_norm_epsilon"))
    writer.add_string("vit.hidden_act", "swiglu")
    writer.add_bool("vit.rope_2d", True)
    writer.add_float32("vit.rope_theta", _value(reader, "clip.vision.rope.freq_base"))
    writer.add_uint32("vit.rope_ref_h", _value(reader, "clip.vision.rope.reference_height"))
    writer.add_uint32("vit.rope_ref_w", _value(reader, "clip.vision.rope.reference_width"))
    writer.add_bool("vit.has_nomic_pool", True)
    for tensor in reader.tensors:
        values = np.array(tensor.data, np.float32)
        if tensor.name == "v.patch_embd.weight":
            side = _value(reader, "clip.vision.patch_size")
            values = values.reshape(-1, 3, side, side)
        writer.add_tensor(_crisp_nomic_name(tensor.name.removeprefix("v.")), values.reshape(values.shape or 1))
    return _close(writer, path)


def _crisp_nomic_name(name: str) -> str:
    for ours, theirs in _CRISP_NOMIC.items():
        name = name.replace(ours, theirs)
    return name


def _write_crisp_sizes(reader: gguf.GGUFReader, writer: gguf.GGUFWriter, prefix: str, own: str) -> None:
    for ours, theirs in {
        "embedding_length": "hidden_size",
        "block_count": "num_hidden_layers",
        "attention.head_count": "num_attention_heads",
        "feed_forward_length": "intermediate_size",
        "projection_dim": "projection_dim",
    }.items():
        writer.add_uint32(f"{prefix}.{theirs}", _value(reader, f"{own}.{ours}"))
    writer.add_float32(f"{prefix}.layer_norm_eps", _value(reader, f"{own}.attention.layer_norm_epsilon"))
    if prefix == "clip_text":  # its converter of image towers leaves the name of the activation out
        writer.add_string(f"{prefix}.hidden_act", _value(reader, f"{own}.hidden_activation"))


def _write_crisp_pictures(reader: gguf.GGUFReader, writer: gguf.GGUFWriter, model_type: str) -> None:
    writer.add_uint32("vit.image_size", _value(reader, "clip.vision.image_size"))
    writer.add_uint32("vit.patch_size", _value(reader, "clip.vision.patch_size"))
    writer.add_string("vit.model_type", model_type)
    writer.add_array("vit.image_mean", [float(x) for x in _value(reader, "clip.vision.image_mean")])
    writer.add_array("vit.image_std", [float(x) for x in _value(reader, "clip.vision.image_std")])
    writer.add_bool("vit.has_cls_token", True)


def _write_crisp_tensors(
    reader: gguf.GGUFReader, writer: gguf.GGUFWriter, prefix: str, end: str, names: dict[str, str]
) -> None:
    for tensor in reader.tensors:
        if not tensor.name.startswith((prefix, end)):
            continue
        name = tensor.name.removeprefix(prefix)
        stem, _, suffix = name.rpartition(".")
        layer = re.fullmatch(r"blk\.(\d+)\.(.+)", stem)
        if layer is not None:
            name = f"enc.{layer[1]}.{_CRISP_PARTS[layer[2]]}.{suffix}"
        elif name in names:
            name = names[name]
        else:
            name = f"{names.get(stem, stem)}.{suffix}"
        writer.add_tensor(name, np.array(tensor.data, np.float32))


def _swapped(name: str) -> str:
    up, down = "ffn_up", "ffn_down"
    return name.replace(up, down) if up in name else name.replace(down, up)


def _value(reader: gguf.GGUFReader, key: str):
    return reader.fields[key].contents()


def _close(writer: gguf.GGUFWriter, path: Path) -> Path:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
