"""Reads a BERT from a GGUF file."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

from benchmarks.loops.weights import Bert, BertSizes
from gguf_embed.errors import ConfigError, ModelFileError
from gguf_embed.gguf_file.facts import pooling_type
from gguf_embed.gguf_file.header import GgufHeader, read_header

_POOLINGS = ("mean", "cls")


def read_bert(path: Path) -> Bert:
    """Sizes and weights. Raises `ConfigError` for a model that the other libraries' loops do not compute."""
    header = read_header(path)
    pooling = pooling_type(header)
    if header.architecture != "bert" or pooling is None or pooling.value not in _POOLINGS:
        raise ConfigError(
            f"{path.name}: in process, only a BERT with pooling mean or cls is compared, "
            f"not {header.architecture} with pooling {pooling}"
        )
    sizes = BertSizes(
        n_embd=_integer(header, "embedding_length"),
        n_layer=_integer(header, "block_count"),
        n_head=_integer(header, "attention.head_count"),
        n_ff=_integer(header, "feed_forward_length"),
        n_ctx=_integer(header, "context_length"),
        norm_eps=header.get("bert.attention.layer_norm_epsilon", float) or 1e-12,
        pooling=pooling.value,
    )
    tensors = gguf.GGUFReader(path).tensors
    weights = {t.name: np.asarray(gguf.quants.dequantize(t.data, t.tensor_type), np.float32) for t in tensors}
    return Bert(sizes, weights)


def _integer(header: GgufHeader, key: str) -> int:
    value = header.get(f"{header.architecture}.{key}", int)
    if value is None:
        raise ModelFileError(f"{header.path}: {key} is missing")
    return value
