"""Tiny vision towers with random weights and a PNG writer, for tests of images: under 300 kB, the same for a seed."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

from gguf_embed.types import Pooling
from tests import gguf_models

IMAGE_SIZE, PATCH_SIZE = 16, 4
N_PATCHES = (IMAGE_SIZE // PATCH_SIZE) ** 2
"""Rows that one image becomes."""


@dataclass(frozen=True, slots=True)
class TowerSizes:
    """What a tower's header tells."""

    projector: str
    image_size: int
    patch_size: int
    n_embd: int
    n_layer: int
    n_ff: int
    n_embd_text: int
    eps: float = 1e-5


class Tensors:
    """Random tensors by llama.cpp's names (tools/mtmd/clip-impl.h)."""

    def __init__(self, random: np.random.Generator, n_embd: int) -> None:
        self.by_name: dict[str, NDArray[np.float32]] = {}
        self._random = random
        self._n_embd = n_embd

    def add(self, name: str, *shape: int, scale: float = 0.3, mean: float = 0.0) -> None:
        self.by_name[name] = (mean + self._random.standard_normal(shape) * scale).astype(np.float32)

    def add_linear(self, name: str, n_out: int, n_in: int) -> None:
        self.add(f"{name}.weight", n_out, n_in)
        self.add(f"{name}.bias", n_out, scale=0.1)

    def add_norm(self, name: str) -> None:
        self.add(f"{name}.weight", self._n_embd, scale=0.1, mean=1.0)
        self.add(f"{name}.bias", self._n_embd, scale=0.1)

    def add_blocks(self, sizes: TowerSizes) -> None:
        for block in (f"v.blk.{layer}" for layer in range(sizes.n_layer)):
            for part in ("attn_q", "attn_k", "attn_v", "attn_out"):
                self.add_linear(f"{block}.{part}", sizes.n_embd, sizes.n_embd)
            self.add_norm(f"{block}.ln1")
            self.add_norm(f"{block}.ln2")
            self.add_linear(f"{block}.ffn_up", sizes.n_ff, sizes.n_embd)
            self.add_linear(f"{block}.ffn_down", sizes.n_embd, sizes.n_ff)


def write_tiny_mmproj(path: Path, *, n_embd_text: int = 32, seed: int = 5) -> Path:
    """A LLaVA projector: a CLIP tower without class token, and two linear layers to the text model's width.

    llama.cpp runs all of its three layers but the last, as LLaVA does.
    """
    sizes = TowerSizes("mlp", IMAGE_SIZE, PATCH_SIZE, n_embd=24, n_layer=3, n_ff=48, n_embd_text=n_embd_text)
    tensors = Tensors(np.random.default_rng(seed), sizes.n_embd)
    tensors.add("v.patch_embd.weight", sizes.n_embd, 3, PATCH_SIZE, PATCH_SIZE)
    tensors.add("v.position_embd.weight", N_PATCHES, sizes.n_embd)
    tensors.add_norm("v.pre_ln")
    tensors.add_blocks(sizes)
    tensors.add_linear("mm.0", n_embd_text, sizes.n_embd)
    tensors.add_linear("mm.2", n_embd_text, n_embd_text)
    return _write_tower(path, sizes, tensors)


def _write_tower(path: Path, sizes: TowerSizes, tensors: Tensors) -> Path:
    writer = gguf.GGUFWriter(path, "clip")
    writer.add_type("mmproj")
    writer.add_name("tiny-tower")
    writer.add_file_type(int(gguf.LlamaFileType.ALL_F32))
    writer.add_bool("clip.has_vision_encoder", True)
    writer.add_string("clip.projector_type", sizes.projector)
    writer.add_bool("clip.use_gelu", True)
    for key, value in {
        "image_size": sizes.image_size,
        "patch_size": sizes.patch_size,
        "embedding_length": sizes.n_embd,
        "feed_forward_length": sizes.n_ff,
        "block_count": sizes.n_layer,
        "projection_dim": sizes.n_embd_text,
        "attention.head_count": 2,
    }.items():
        writer.add_uint32(f"clip.vision.{key}", value)
    writer.add_float32("clip.vision.attention.layer_norm_epsilon", sizes.eps)
    writer.add_array("clip.vision.image_mean", [0.5, 0.5, 0.5])
    writer.add_array("clip.vision.image_std", [0.25, 0.25, 0.25])
    for name, values in tensors.by_name.items():
        writer.add_tensor(name, values)
    return gguf_models.finish(writer, path)


def write_tiny_qwen2vl(path: Path, *, n_ctx: int = 128, seed: int = 0) -> Path:
    """A Qwen2-VL's text model, whose positions have three dimensions: 32 wide, two layers and heads."""
    writer = gguf.GGUFWriter(path, "qwen2vl")
    gguf_models.describe(writer, "tiny-qwen2vl", "f32", 32, 2, 2, 64, n_ctx, Pooling.LAST)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_sections([2, 3, 3, 0])
    n_vocab = gguf_models.write_bpe(writer, add_bos=False, add_eos=True)
    weights = gguf_models.Weights(writer, "f32", seed)
    weights.matrix("token_embd.weight", n_vocab, 32)
    weights.plain("output_norm.weight", 32, mean=1.0)
    for layer in range(2):
        for part in ("attn_q", "attn_k", "attn_v"):
            gguf_models.add_linear(weights, f"blk.{layer}.{part}", 32, 32)
        weights.matrix(f"blk.{layer}.attn_output.weight", 32, 32)
        for part in ("attn_norm", "ffn_norm"):
            weights.plain(f"blk.{layer}.{part}.weight", 32, mean=1.0)
        for part in ("ffn_gate", "ffn_up"):
            weights.matrix(f"blk.{layer}.{part}.weight", 64, 32)
        weights.matrix(f"blk.{layer}.ffn_down.weight", 32, 64)
    return gguf_models.finish(writer, path)


def write_tiny_qwen2vl_tower(path: Path, *, seed: int = 3) -> Path:
    """Its tower: patches of 8 x 8, four of them a row; images keep their shape, 64 x 64 gives 16 rows."""
    sizes = TowerSizes(
        "qwen2vl_merger", image_size=56, patch_size=8, n_embd=32, n_layer=2, n_ff=64, n_embd_text=32, eps=1e-6
    )
    tensors = Tensors(np.random.default_rng(seed), 32)
    for name in ("v.patch_embd.weight", "v.patch_embd.weight.1"):  # of two frames; an image is both
        tensors.add(name, 32, 3, 8, 8)
    tensors.add_norm("v.post_ln")
    tensors.add_blocks(sizes)
    tensors.add_linear("mm.0", 4 * 32, 4 * 32)
    tensors.add_linear("mm.2", 32, 4 * 32)
    return _write_tower(path, sizes, tensors)


def png(pixels: NDArray[np.uint8]) -> bytes:
    """uint8[height, width, 3] as a PNG file."""
    height, width, _ = pixels.shape
    lines = b"".join(b"\0" + row.tobytes() for row in pixels)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        (
            png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
            png_chunk(b"IDAT", zlib.compress(lines)),
            png_chunk(b"IEND", b""),
        )
    )


def png_chunk(kind: bytes, data: bytes) -> bytes:
    """One chunk of a PNG file, with its checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def noise(seed: int, size: int = IMAGE_SIZE) -> NDArray[np.uint8]:
    """An image that differs for every seed."""
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), np.uint8)
