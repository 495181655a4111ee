"""Writes a CLIP with random weights as a directory of a hub repository, which transformers and our converter both read.

The vocabulary has only bytes: no text is measured.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.safetensors_file import write_safetensors
from gguf_embed.types import FloatMatrix

_MEAN = [0.48145466, 0.4578275, 0.40821073]
_STD = [0.26862954, 0.26130258, 0.27577711]
_N_POSITIONS = 77
_SCALE = 0.03  # of the weights: about that of trained ones


@dataclass(frozen=True, slots=True)
class TowerSize:
    """The sizes of one tower."""

    n_embd: int
    n_layer: int
    n_head: int

    def config(self) -> dict[str, object]:
        return {
            "hidden_size": self.n_embd,
            "intermediate_size": 4 * self.n_embd,
            "num_hidden_layers": self.n_layer,
            "num_attention_heads": self.n_head,
            "hidden_act": "quick_gelu",
        }

    def shapes(self, prefix: str) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Of its layers."""
        width = self.n_embd
        for number in range(self.n_layer):
            at = f"{prefix}.encoder.layers.{number}"
            for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
                yield from _linear(f"{at}.self_attn.{part}", width, width)
            yield from _linear(f"{at}.mlp.fc1", 4 * width, width)
            yield from _linear(f"{at}.mlp.fc2", width, 4 * width)
            for part in ("layer_norm1", "layer_norm2"):
                yield from _norm(f"{at}.{part}", width)


@dataclass(frozen=True, slots=True)
class ClipSize:
    """The sizes of a CLIP."""

    text: TowerSize
    image: TowerSize
    n_embd: int  # of its vectors
    image_size: int
    patch_size: int


CLIP_B32 = ClipSize(TowerSize(512, 12, 8), TowerSize(768, 12, 12), 512, 224, 32)
"""clip-vit-base-patch32."""


def write_clip(size: ClipSize, folder: Path) -> Path:
    """The directory. Takes some seconds for 125 million weights."""
    folder.mkdir(parents=True)
    entries = _byte_entries()
    text = {**size.text.config(), "vocab_size": len(entries), "max_position_embeddings": _N_POSITIONS}
    text |= {"bos_token_id": len(entries) - 2, "eos_token_id": len(entries) - 1, "pad_token_id": len(entries) - 1}
    image = {**size.image.config(), "image_size": size.image_size, "patch_size": size.patch_size}
    config = {"model_type": "clip", "architectures": ["CLIPModel"], "projection_dim": size.n_embd}
    pictures = {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": size.image_size},
        "crop_size": {"height": size.image_size, "width": size.image_size},
        "image_mean": _MEAN,
        "image_std": _STD,
        "resample": 3,
    }
    _write_json(folder / "config.json", {**config, "text_config": text, "vision_config": image})
    _write_json(folder / "preprocessor_config.json", pictures)
    _write_json(folder / "vocab.json", {entry: token for token, entry in enumerate(entries)})
    (folder / "merges.txt").write_text("#version: 0.2\n")
    rng = np.random.default_rng(0)
    shapes = dict(_shapes(size, len(entries)))
    write_safetensors(folder / "model.safetensors", {name: _random(rng, name, shape) for name, shape in shapes.items()})
    return folder


def _random(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> FloatMatrix:
    """Norms around 1, all else around 0."""
    values = rng.standard_normal(shape, np.float32) * np.float32(_SCALE)
    is_norm = len(shape) == 1 and name.endswith(".weight")
    return values + np.float32(1) if is_norm else values


def _shapes(size: ClipSize, n_vocab: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    text, image = size.text.n_embd, size.image.n_embd
    yield "logit_scale", ()
    yield "text_model.embeddings.token_embedding.weight", (n_vocab, text)
    yield "text_model.embeddings.position_embedding.weight", (_N_POSITIONS, text)
    yield from _norm("text_model.final_layer_norm", text)
    yield from size.text.shapes("text_model")
    yield "text_projection.weight", (size.n_embd, text)
    yield "vision_model.embeddings.class_embedding", (image,)
    yield "vision_model.embeddings.patch_embedding.weight", (image, 3, size.patch_size, size.patch_size)
    yield "vision_model.embeddings.position_embedding.weight", ((size.image_size // size.patch_size) ** 2 + 1, image)
    yield from _norm("vision_model.pre_layrnorm", image)
    yield from _norm("vision_model.post_layernorm", image)
    yield from size.image.shapes("vision_model")
    yield "visual_projection.weight", (size.n_embd, image)


def _linear(name: str, n_out: int, n_in: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (n_out, n_in)
    yield f"{name}.bias", (n_out,)


def _norm(name: str, n_embd: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (n_embd,)
    yield f"{name}.bias", (n_embd,)


def _byte_entries() -> list[str]:
    """CLIP's characters for the bytes, the same at the end of a word, and the special tokens."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    characters = [*map(chr, shown), *(chr(256 + number) for number in range(256 - len(shown)))]
    return [*characters, *(f"{character}</w>" for character in characters), "<|startoftext|>", "<|endoftext|>"]


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content), "utf-8")
