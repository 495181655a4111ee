"""Static models written by hand, for tests that need one that is small, odd or broken."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray


def write_static(
    path: Path,
    tokens: Sequence[str],
    rows: NDArray[np.generic],
    *,
    table: str = "token_embd.weight",
    weights: NDArray[np.generic] | None = None,
    mapping: NDArray[np.int32] | None = None,
    tokenizer: str = "words",
    tokenizer_json: str | None = None,
    lowercase: bool = True,
) -> Path:
    """A GGUF of the documented form, by default a word table; nothing is checked."""
    writer = gguf.GGUFWriter(path, "static-embedding")
    writer.add_type("model")
    writer.add_name(path.stem)
    writer.add_context_length(1000)
    writer.add_embedding_length(rows.shape[-1])
    writer.add_pooling_type(gguf.PoolingType.MEAN)
    writer.add_tokenizer_model(tokenizer)
    writer.add_bool("tokenizer.ggml.normalizer.lowercase", lowercase)
    if tokenizer_json is not None:
        writer.add_string("tokenizer.huggingface.json", tokenizer_json)
    writer.add_token_list(list(tokens))
    writer.add_tensor(table, rows)
    for name, values in (("token_weight", weights), ("token_mapping", mapping)):
        if values is not None:
            writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
