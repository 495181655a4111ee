"""Writes BM25 for a language as a GGUF, with fastembed's numbers. Nothing is downloaded."""

from __future__ import annotations

import tomllib
from importlib.resources import files
from pathlib import Path

import gguf
import numpy as np

from gguf_embed.errors import ModelFileError
from gguf_embed.gguf_file import bm25_format as keys
from gguf_embed.gguf_file import token_heads as heads
from gguf_embed.gguf_file.atomic_write import atomic_write

K, B, AVERAGE_LENGTH = 1.2, 0.75, 256.0
LONGEST_WORD = 40


def write_bm25(language: str, output: Path, *, name: str) -> None:
    """Raises `ModelFileError` for a language without stop words; on any failure `output` is unchanged."""
    known = tomllib.loads((files("gguf_embed.convert") / "stop_words.toml").read_text("utf-8"))
    if language not in known:
        raise ModelFileError(f"there are no stop words for {language!r}, only for {', '.join(known)}")
    with atomic_write(output) as temporary:
        writer = gguf.GGUFWriter(temporary, keys.ARCHITECTURE)
        try:
            writer.add_type("model")
            writer.add_name(name)
            writer.add_file_type(int(gguf.LlamaFileType.ALL_F32))
            writer.add_context_length(keys.CONTEXT_LENGTH)
            writer.add_string(keys.LANGUAGE, language)
            writer.add_uint32(keys.LONGEST_WORD, LONGEST_WORD)
            writer.add_string(heads.SPARSE + "kind", heads.BM25)
            writer.add_tokenizer_model(keys.ARCHITECTURE)
            writer.add_token_list(known[language].split())
            writer.add_tensor(keys.FACTORS, np.array([K, B, AVERAGE_LENGTH], np.float32))
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
        finally:
            writer.close()
