"""Heads on token rows: ColBERT's projection, sparse and listwise heads, written under the keys of `gguf_file/`."""

from __future__ import annotations

from collections.abc import Mapping

import gguf
import numpy as np
from numpy.typing import NDArray

from gguf_embed.convert.colbert_head import colbert_head
from gguf_embed.convert.listwise_head import listwise_head
from gguf_embed.convert.source import ModelSourceDirectory
from gguf_embed.convert.sparse_head import sparse_head

HeadValue = str | int | float | bool | NDArray[np.float32] | tuple[int, ...]


def read_heads(source: ModelSourceDirectory) -> Mapping[str, HeadValue]:
    """All keys to write; none for a model without such heads. Raises `ModelFileError` for heads that differ."""
    return {**colbert_head(source), **sparse_head(source), **listwise_head(source)}


def write_heads(writer: gguf.GGUFWriter, values: Mapping[str, HeadValue]) -> None:
    for key, value in values.items():
        match value:
            case bool():
                writer.add_bool(key, value)
            case int():
                writer.add_uint32(key, value)
            case float():
                writer.add_float32(key, value)
            case str():
                writer.add_string(key, value)
            case tuple():
                writer.add_key_value(key, list(value), gguf.GGUFValueType.ARRAY, gguf.GGUFValueType.INT32)
            case _:
                writer.add_key_value(
                    key, value.reshape(-1).tolist(), gguf.GGUFValueType.ARRAY, gguf.GGUFValueType.FLOAT32
                )
