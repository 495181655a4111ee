"""How many floating-point operations a model needs for a text, read from its GGUF header."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from gguf_embed.errors import ModelFileError
from gguf_embed.gguf_file.header import read_header


@dataclass(frozen=True, slots=True)
class ModelCost:
    """A multiply-add counts as two. Lookups, norms and activations are ignored, because they are under one percent."""

    linear_flops_per_token: int  # 2 x rows x columns over the layers' matrices
    attention_flops_per_pair: int  # 4 x n_embd x layers: one token attending to one token

    def of_texts(self, n_tokens: Iterable[float]) -> float:
        """Operations for texts of these lengths, without padding and without attention across texts."""
        return sum(n * self.linear_flops_per_token + n * n * self.attention_flops_per_pair for n in n_tokens)


def read_model_cost(path: Path) -> ModelCost:
    """Sum over the 2-D matrices of the layers `blk.*`. Raises `ModelFileError` if the file is not a GGUF model."""
    header = read_header(path)
    n_layers = header.get(f"{header.architecture}.block_count", int)
    n_embd = header.get(f"{header.architecture}.embedding_length", int)
    if n_layers is None or n_embd is None:
        raise ModelFileError(f"{path}: the number of layers or their width is missing")
    matrices = [t.shape for t in header.tensors.values() if t.name.startswith("blk.") and len(t.shape) == 2]
    return ModelCost(
        linear_flops_per_token=sum(2 * rows * columns for columns, rows in matrices),
        attention_flops_per_pair=4 * n_embd * n_layers,
    )
