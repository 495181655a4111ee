"""nomic-embed-vision: an image tower alone, in the layout of `clip.py`. Its text model is a NomicBERT."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gguf

from gguf_embed.convert.clip import Tower, norm, read_pictures
from gguf_embed.convert.encoder import Shapes, TensorNames, linear, plan_tensors
from gguf_embed.convert.plan import ConversionPlan, MatrixAxes, OutType
from gguf_embed.convert.source import MAX_LAYERS, ModelSourceDirectory
from gguf_embed.errors import ModelFileError
from gguf_embed.gguf_file.towers import ACTIVATIONS, BOTH

ARCHITECTURES = ("NomicVisionModel",)

_DEFAULTS: Mapping[str, Any] = {"prenorm": False, "use_rotary_pos_emb": False, "norm_mlp": False, "num_channels": 3}
"""Of the original's code, where a missing key has another value than nomic-embed-vision."""

_COMPUTED: Mapping[str, tuple[object, ...]] = {
    "activation_function": ("swiglu",),
    "prenorm": (True,),
    "norm_mlp": (True,),
    "use_rotary_pos_emb": (True,),
    "rotary_emb_fraction": (0,),
    "num_channels": (3,),
    "global_pool": ("", "token"),
    "register_tokens": (0,),
    "use_pos_embed": (True,),
    **dict.fromkeys(("qkv_proj_bias", "mlp_fc1_bias", "mlp_fc2_bias", "patch_embed_bias"), (True,)),
    **dict.fromkeys(("causal", "use_rms_norm", "parallel_block", "layer_scale", "mask_token"), (False,)),
    **dict.fromkeys(("learned_pos_embedding", "sinusoidal_pos_embedding", "no_embed_class", "no_cls_token"), (False,)),
}
_ROPE_BASE = 10_000.0  # whatever the config says: the original's code does not read rotary_emb_base here
_NORM_EPS = 1e-5  # of the norm in a feed-forward layer; torch's default, which the original uses
_FF_MULTIPLE = 256  # to which the original's code rounds up the width of feed-forward layers
_NAMES = TensorNames(
    prefix="model.",
    layers="layers.",
    model={
        "embeddings.proj": "v.patch_embd",
        "selector.attn.Wq": "v.head.attn.q",
        "selector.attn.Wkv": "v.head.attn.kv",
        "selector.attn.out_proj": "v.head.attn.o",
        "selector.norm1": "v.head.ln",
        "selector.mlp.fc11": "v.head.mlp.fc11",
        "selector.mlp.fc12": "v.head.mlp.fc12",
        "selector.mlp.fc2": "v.head.mlp.fc2",
    },
    layer={
        "norm1": "ln1",
        "attn.Wqkv": "attn_qkv",
        "attn.out_proj": "attn_out",
        "norm2": "ln2",
        "mlp.fc11": "ffn_up",
        "mlp.fc12": "ffn_gate",
        "mlp.norm": "ffn_norm",
        "mlp.fc2": "ffn_down",
    },
    layer_name="v.blk",
)
_PARAMETERS = {
    "embeddings.cls_token": "v.class_embd",
    "embeddings.pos_embed": "v.position_embd.weight",
    "selector.attn.latent": "v.head.probe",
}
_AXES: Mapping[str, MatrixAxes] = {"v.class_embd": ((0, 1), (2,)), "v.position_embd.weight": ((0, 1), (2,))}
"""The original has one more dimension, of size 1."""


class _Names:
    """Those of layers, and those of parameters without a layer."""

    def find(self, original: str) -> str | None:
        """The GGUF name with suffix; None for an unknown tensor."""
        return _PARAMETERS.get(original.removeprefix(_NAMES.prefix)) or _NAMES.find(original)


@dataclass(frozen=True, slots=True)
class _Grid:
    """A picture in patches: how many a side, and the picture to whose positions they are stretched."""

    size: int  # pixels a side
    patch: int  # pixels a side
    reference: tuple[int, int]  # patches: height, width

    @property
    def side(self) -> int:
        return self.size // self.patch


def plan_nomic_vision(source: ModelSourceDirectory, outtype: OutType) -> ConversionPlan:
    """Plan the conversion. Raises `ModelFileError` for what no engine computes, and for missing or unknown tensors."""
    given = {key: value for key, value in source.config.items() if value is not None}
    source = ModelSourceDirectory(source.path, {**_DEFAULTS, **given})
    source.refuse_others(_COMPUTED)
    tower, grid = _read_tower(source), _read_grid(source)
    tensors = plan_tensors(source, _Names(), _shapes(tower, grid), outtype, axes=_AXES)
    pictures = read_pictures(source, grid.size, is_cropped=True)

    def write_metadata(writer: gguf.GGUFWriter) -> None:
        writer.add_bool("clip.has_text_encoder", False)
        writer.add_bool("clip.has_vision_encoder", True)
        tower.write(writer, "clip.vision", tower.n_embd)
        writer.add_float32("clip.vision.feed_forward_norm_epsilon", _NORM_EPS)
        writer.add_float32("clip.vision.rope.freq_base", _ROPE_BASE)
        for name, length in zip(("height", "width"), grid.reference, strict=True):
            writer.add_uint32(f"clip.vision.rope.reference_{name}", length)
        pictures.write(writer, grid.size, grid.patch, "crop")

    return ConversionPlan(BOTH, tensors, write_metadata)


def _read_tower(source: ModelSourceDirectory) -> Tower:
    n_ff = int(source.number("n_inner"))  # a float in the original's file
    return Tower(
        config=source,
        n_embd=source.integer("n_embd"),
        n_layer=source.integer("n_layer", maximum=MAX_LAYERS),
        n_head=source.integer("n_head"),
        n_ff=-(-n_ff // _FF_MULTIPLE) * _FF_MULTIPLE,
        eps=source.number("layer_norm_epsilon", 1e-5),
        activation=ACTIVATIONS[source.text("activation_function")],
    )


def _read_grid(source: ModelSourceDirectory) -> _Grid:
    """Raises `ModelFileError` for a reference that is not a height and a width."""
    size, patch = source.integer("img_size"), source.integer("patch_size")
    match source.config.get("ref_feat_shape", size // patch):
        case int() as length if length > 0:
            return _Grid(size, patch, (length, length))
        case [int() as height, int() as width] if min(height, width) > 0:
            return _Grid(size, patch, (height, width))
        case other:
            raise ModelFileError(f"{source.path / 'config.json'}: ref_feat_shape is {other!r}, expected two integers")


def _shapes(tower: Tower, grid: _Grid) -> Shapes:
    width, n_ff = tower.n_embd, tower.n_ff
    shapes: Shapes = {
        "v.class_embd": (1, width),
        "v.position_embd.weight": (grid.side**2 + 1, width),
        "v.head.probe": (1, 1, width),
    }
    shapes |= linear("v.patch_embd", width, 3 * grid.patch**2) | norm("v.head.ln", width)
    shapes |= linear("v.head.attn.q", width, width) | linear("v.head.attn.kv", 2 * width, width)
    shapes |= linear("v.head.attn.o", width, width) | _gated_shapes("v.head.mlp.fc11", "v.head.mlp.fc12", width, n_ff)
    shapes |= linear("v.head.mlp.fc2", width, n_ff)
    for number in range(tower.n_layer):
        at = f"v.blk.{number}"
        shapes |= linear(f"{at}.attn_qkv", 3 * width, width) | linear(f"{at}.attn_out", width, width)
        shapes |= norm(f"{at}.ln1", width) | norm(f"{at}.ln2", width) | norm(f"{at}.ffn_norm", n_ff)
        shapes |= _gated_shapes(f"{at}.ffn_up", f"{at}.ffn_gate", width, n_ff)
        shapes |= linear(f"{at}.ffn_down", width, n_ff)
    return shapes


def _gated_shapes(up: str, gate: str, width: int, n_ff: int) -> Shapes:
    return linear(up, n_ff, width) | linear(gate, n_ff, width)
