"""Rewrites our GGUF with heads as CrispEmbed writes them: heads as tensors, its keys, no key about causal attention."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np

from tests.gguf_models import finish

TENSORS = {
    "gguf-embed.colbert.weight": "colbert_linear.weight",
    "gguf-embed.colbert.bias": "colbert_linear.bias",
    "gguf-embed.sparse.weight": "mlm_transform.weight",
    "gguf-embed.sparse.bias": "mlm_transform.bias",
    "gguf-embed.sparse.norm.weight": "mlm_ln.weight",
    "gguf-embed.sparse.norm.bias": "mlm_ln.bias",
    "gguf-embed.sparse.output_bias": "mlm_bias",
}
KEYS = ("bert.block_count", "bert.context_length", "bert.embedding_length", "bert.feed_forward_length")
KEYS += ("bert.attention.head_count", "bert.attention.layer_norm_epsilon", "bert.pooling_type")
PREFIXES = ("tokenizer.ggml.",)


def write_in_crisp_layout(source: Path, path: Path, **strings: str) -> None:
    """`strings`: keys after "colbert.", such as `query_prefix`."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(path, "bert")
    fields = {name: field for name, field in reader.fields.items() if name in KEYS or name.startswith(PREFIXES)}
    for name, field in fields.items():
        kinds = field.types
        writer.add_key_value(name, field.contents(), kinds[0], kinds[-1] if len(kinds) > 1 else None)
    for name, text in strings.items():
        writer.add_string(f"colbert.{name}", text)
    n_embd = int(reader.fields["bert.embedding_length"].contents())
    for key, name in TENSORS.items():
        if key in reader.fields:
            writer.add_tensor(name, as_tensor(reader.fields[key].contents(), n_embd, name))
    if "gguf-embed.colbert.weight" in reader.fields:
        writer.add_uint32("bert.colbert_dim", int(reader.fields["gguf-embed.colbert.dimensions"].contents()))
        length = reader.fields.get("gguf-embed.colbert.query_length")
        if length is not None:
            writer.add_uint32("colbert.query_length", int(length.contents()))
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data)
    finish(writer, path)


def as_tensor(numbers: Any, n_embd: int, name: str) -> np.ndarray:
    values = np.asarray(numbers, np.float32)
    return values.reshape(-1, n_embd) if name in ("colbert_linear.weight", "mlm_transform.weight") else values
