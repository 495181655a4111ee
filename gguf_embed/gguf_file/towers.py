"""The text and image towers of CLIP, SigLIP and nomic-embed-vision in a GGUF, in any layout, under one set of names.

A tower becomes a header of its own: `text_tower` and `image_tower` rename tensors and keys, and leave the tensors
where they are in the file, so that everything that reads a model's header reads a tower's.

Layouts: that of monatis/clip.cpp, which `gguf-embed convert` writes too (`clip`, both towers in one file, or the image
tower alone), and that of CrispEmbed (`clip_text` and `vit`, a file for each). A text model of another architecture may
have an image tower in its file, in clip.cpp's layout.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from gguf_embed.errors import ModelFileError
from gguf_embed.gguf_file.constants import POOLING_NUMBERS
from gguf_embed.gguf_file.header import GgufHeader, MetadataValue, TensorInfo, read_header
from gguf_embed.types import Pooling

TEXT, IMAGE = "clip-text", "clip-image"
"""`architecture` of a tower's header."""

BOTH = "clip"  # general.architecture of clip.cpp's layout, and of llama.cpp's projectors
PROBE = "head.probe"
HAS_IMAGES = "tower.has_images"
"""Set in the header of a text model whose file has an image tower, too. No file has this key."""

RESIZE = f"{IMAGE}.resize"
"""How an image becomes a square: "crop" its middle, or "squash" it."""

_CRISP_TEXT, _CRISP_IMAGE = "clip_text", "vit"
_KEPT = ("general.", "tokenizer.", "gguf-embed.")  # beginnings of keys that are the same for a tower

ACTIVATIONS = {"gelu_pytorch_tanh": "gelu_tanh", "gelu_new": "gelu_tanh", "swiglu": "silu"}
"""Others' names where they differ from ours. swiglu: the gate's."""

_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
_HALF = (0.5, 0.5, 0.5)

_CLIP_KEYS = {
    name: name
    for name in (
        *("embedding_length", "feed_forward_length", "block_count", "context_length", "image_size", "patch_size"),
        *("attention.head_count", "attention.layer_norm_epsilon", "attention.causal", "image_mean", "image_std"),
        *("hidden_activation", "resize", "feed_forward_norm_epsilon"),
        *("rope.freq_base", "rope.reference_height", "rope.reference_width"),
    )
} | {"projection_dim": "embedding_length_out"}
_CRISP_KEYS = {
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "layer_norm_eps": "attention.layer_norm_epsilon",
    "max_position_embeddings": "context_length",
    "projection_dim": "embedding_length_out",
    "hidden_act": "hidden_activation",
    "causal": "attention.causal",
    "image_size": "image_size",
    "patch_size": "patch_size",
    "image_mean": "image_mean",
    "image_std": "image_std",
    "mlp_ln_eps": "feed_forward_norm_epsilon",
    "rope_theta": "rope.freq_base",
    "rope_ref_h": "rope.reference_height",
    "rope_ref_w": "rope.reference_width",
}
_CRISP_PARTS = {
    "attn.q": "attn_q",
    "attn.k": "attn_k",
    "attn.v": "attn_v",
    "attn.o": "attn_out",
    "attn.qkv": "attn_qkv",
    "ffn.fc1": "ffn_up",
    "ffn.fc2": "ffn_down",
    "ffn.fc11": "ffn_up",
    "ffn.fc12": "ffn_gate",
    "ffn.norm": "ffn_norm",
}
_CRISP_NAMES = {
    "final_ln": "post_ln",
    "text_proj": "projection",
    "visual_proj": "projection",
    "cls_token": "class_embd",
    "patch_embed": "patch_embd",
    "nomic_pool.latent": PROBE,
}
_CRISP_POOL = {f"nomic_pool.{part}.": f"head.attn.{part}." for part in ("q", "kv", "o")}
_CRISP_POOL |= {f"nomic_pool.{part}.": f"head.{part}." for part in ("ln", "mlp")}
_CRISP_LAYER = re.compile(r"enc\.(\d+)\.(.+)")


_ENDS = {"visual_projection.weight", f"v.{PROBE}"}
"""Each tower in clip.cpp's layout has one of these tensors, and no projector of llama.cpp."""

_OF_IMAGES = ("v.", "visual_projection.")


@dataclass(frozen=True, slots=True)
class _Layout:
    """How a tower's keys and tensors are called in a file."""

    prefix: str  # of its keys, without the dot
    keys: Mapping[str, str]  # its names → ours
    tensors: dict[str, TensorInfo]  # of this tower, by our names


def read_model(path: Path) -> GgufHeader:
    """The header of a model's file; of a CLIP its text tower's. Raises `ModelFileError` like `read_header`."""
    return model_of(read_header(path))


def model_of(header: GgufHeader) -> GgufHeader:
    """The header of the model in a file: of its text tower, where it has one; without an image tower's tensors."""
    return text_tower(header) or _beside_images(header) or header


def _beside_images(header: GgufHeader) -> GgufHeader | None:
    """The header of a text model that has an image tower in its file; None for any other file."""
    if header.architecture in (BOTH, _CRISP_IMAGE) or _ENDS.isdisjoint(header.tensors):
        return None
    own = {name: tensor for name, tensor in header.tensors.items() if not name.startswith(_OF_IMAGES)}
    return replace(header, metadata={**header.metadata, HAS_IMAGES: True}, tensors=own)


def tower_for(header: GgufHeader, beside: Path | None) -> GgufHeader | None:
    """The image tower for the model with this header: of the file `beside` it if there is one, else of its own.

    None for a model without one, and for a file that cannot be read.
    """
    path = beside or (header.path if header.get(HAS_IMAGES, bool) else None)
    try:
        return None if path is None else image_tower(read_header(path))
    except ModelFileError:
        return None


def text_tower(header: GgufHeader) -> GgufHeader | None:
    """The text tower's header; None for a file that has none."""
    if header.architecture == BOTH and "t.token_embd.weight" in header.tensors:
        layout = _Layout("clip.text", _CLIP_KEYS, _clip_tensors(header, "t.", "text_projection"))
    elif header.architecture == _CRISP_TEXT:
        layout = _Layout(_CRISP_TEXT, _CRISP_KEYS, _crisp_tensors(header, head="projection"))
    else:
        return None
    tower = _with_tower(header, TEXT, layout)
    tower.metadata.setdefault(f"{TEXT}.attention.causal", True)
    tower.metadata[f"{TEXT}.pooling_type"] = POOLING_NUMBERS[Pooling.LAST]
    tower.metadata[HAS_IMAGES] = image_tower(header) is not None
    return tower


def image_tower(header: GgufHeader) -> GgufHeader | None:
    """The image tower's header; None for a file that has none whose output is a vector for each image.

    llama.cpp's projectors, which make rows for a language model of an image, are no such towers.
    """
    if not _ENDS.isdisjoint(header.tensors):
        layout = _Layout("clip.vision", _CLIP_KEYS, _clip_tensors(header, "v.", "visual_projection"))
    elif header.architecture == _CRISP_IMAGE:
        layout = _Layout(_CRISP_IMAGE, _CRISP_KEYS, _crisp_tensors(header, head="head"))
    else:
        return None
    tower = _with_tower(header, IMAGE, layout)
    has_class = "class_embd" in layout.tensors
    tower.metadata.setdefault(RESIZE, "crop" if has_class else "squash")
    tower.metadata.setdefault(f"{IMAGE}.image_mean", _CLIP_MEAN if has_class else _HALF)
    tower.metadata.setdefault(f"{IMAGE}.image_std", _CLIP_STD if has_class else _HALF)
    return tower


def _with_tower(header: GgufHeader, architecture: str, layout: _Layout) -> GgufHeader:
    """`header` with the keys and tensors of one tower, which becomes the architecture."""
    metadata = {key: value for key, value in header.metadata.items() if key.startswith(_KEPT)}
    for name, ours in layout.keys.items():
        value = header.metadata.get(f"{layout.prefix}.{name}")
        if value is not None:
            metadata[f"{architecture}.{ours}"] = value
    key = f"{architecture}.hidden_activation"
    metadata[key] = _activation(header, metadata.get(key))
    lengths = {key: n for key, n in header.array_lengths.items() if key.startswith(_KEPT)}
    return replace(header, architecture=architecture, metadata=metadata, array_lengths=lengths, tensors=layout.tensors)


def _activation(header: GgufHeader, stored: MetadataValue | None) -> str:
    """Ours for the stored name; clip.cpp's files have a flag instead of a name."""
    if isinstance(stored, str):
        return ACTIVATIONS.get(stored, stored)
    return "gelu" if header.get("clip.use_gelu", bool) else "quick_gelu"


def _clip_tensors(header: GgufHeader, prefix: str, projection: str) -> dict[str, TensorInfo]:
    """Those of one tower. clip.cpp calls the first matrix of a feed-forward layer `ffn_down`, others `ffn_up`."""
    found: dict[str, TensorInfo] = {}
    first = header.tensors.get(f"{prefix}blk.0.ffn_down.weight")
    is_gated = f"{prefix}blk.0.ffn_gate.weight" in header.tensors  # which clip.cpp does not have
    is_swapped = not is_gated and first is not None and len(first.shape) == 2 and first.shape[0] < first.shape[1]
    for name, tensor in header.tensors.items():
        if name.startswith(prefix):
            ours = _swapped(name.removeprefix(prefix)) if is_swapped else name.removeprefix(prefix)
        elif name.startswith(f"{projection}."):
            ours = name.replace(projection, "projection")
        else:
            continue
        found[ours] = replace(tensor, name=ours)
    return found


def _swapped(name: str) -> str:
    up, down = ".ffn_up.", ".ffn_down."
    return name.replace(up, down) if up in name else name.replace(down, up)


def _crisp_tensors(header: GgufHeader, *, head: str) -> dict[str, TensorInfo]:
    """`head` is the name of what a text tower calls its head: the projection. An image tower's is an attention pool."""
    named = {_crisp_name(name, head): tensor for name, tensor in header.tensors.items()}
    return {name: replace(tensor, name=name) for name, tensor in named.items()}


def _crisp_name(name: str, head: str) -> str:
    """Ours."""
    stem, _, suffix = name.rpartition(".")
    layer = _CRISP_LAYER.fullmatch(stem)
    if layer is not None:
        return f"blk.{layer[1]}.{_CRISP_PARTS.get(layer[2], layer[2])}.{suffix}"
    if name in _CRISP_NAMES:
        return _CRISP_NAMES[name]
    for theirs, ours in _CRISP_POOL.items():
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return f"{head if stem == 'head' and name != PROBE else _CRISP_NAMES.get(stem, stem)}.{suffix}"
