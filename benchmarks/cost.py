"""How many floating-point operations a model needs for a text, and in which products, read from its GGUF header."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from gguf_embed.errors import ModelFileError
from gguf_embed.gguf_file.header import GgufHeader, read_header

Shape = tuple[int, int]
"""A matrix as (columns, rows): the numbers that go in and come out."""


@dataclass(frozen=True, slots=True)
class AttentionLayers:
    """How many layers attend to the whole text, and how many only to a window around each token."""

    n_global: int
    n_local: int = 0
    window: int = 0  # tokens that one token attends to in a local layer

    def pairs(self, n_tokens: float) -> float:
        """Pairs of tokens in all layers for a text of this length."""
        return n_tokens * (self.n_global * n_tokens + self.n_local * min(n_tokens, self.window))


@dataclass(frozen=True, slots=True)
class ModelCost:
    """A multiply-add counts as two. Lookups, norms and activations are ignored, because they are under one percent."""

    matrices: Mapping[Shape, int]  # of the layers: how many there are of each shape
    layers: AttentionLayers
    n_embd: int

    @property
    def linear_flops_per_token(self) -> int:
        return sum(2 * columns * rows * count for (columns, rows), count in self.matrices.items())

    def of_texts(self, n_tokens: Iterable[float]) -> float:
        """Operations for texts of these lengths, without padding and without attention across texts."""
        return sum(n * self.linear_flops_per_token + 4 * self.n_embd * self.layers.pairs(n) for n in n_tokens)


def read_model_cost(path: Path) -> ModelCost:
    """Count the 2-D matrices of the layers `blk.*`. Raises `ModelFileError` if the file is not a GGUF model."""
    header = read_header(path)
    n_layers = header.get(f"{header.architecture}.block_count", int)
    n_embd = header.get(f"{header.architecture}.embedding_length", int)
    if n_layers is None or n_embd is None:
        raise ModelFileError(f"{path}: the number of layers or their width is missing")
    shapes = [t.shape for t in header.tensors.values() if t.name.startswith("blk.") and len(t.shape) == 2]
    matrices = Counter((shape[0], shape[1]) for shape in shapes)
    return ModelCost(dict(matrices), _attention_layers(header, n_layers), n_embd)


def _attention_layers(header: GgufHeader, n_layers: int) -> AttentionLayers:
    """Layers 0, n, 2n… are global where the file has a window and a period n, as in ModernBERT."""
    window = header.get(f"{header.architecture}.attention.sliding_window", int)
    period = header.get(f"{header.architecture}.attention.sliding_window_pattern", int)
    if not window or not period:
        return AttentionLayers(n_layers)
    n_global = -(-n_layers // period)
    return AttentionLayers(n_global, n_layers - n_global, window)
