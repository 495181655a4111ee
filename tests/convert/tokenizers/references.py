"""The references of `tests/data/make_decoder_reference.py`, and llama.cpp's ids for a vocabulary that we wrote."""

from __future__ import annotations

import ctypes
import json
import lzma
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import numpy as np
from numpy.typing import NDArray

from gguf_embed.convert.source import ModelSourceDirectory
from gguf_embed.convert.tokenizer import VocabularyPlan, read_tokenizer
from gguf_embed.engines.llama import api as _llama_api
from tests.convert.tokenizers.decoder_directory import n_vocab_of, write_tokenizer

DATA = Path(__file__).parent.parent.parent / "data" / "convert_decoders"
TEXTS: dict[str, str] = json.loads((DATA / "texts.json").read_text("utf-8"))


@cache
def reference_tokenizers() -> dict[str, dict[str, Any]]:
    """By name: tokenizer.json, tokenizer_config.json and `ids` of all texts."""
    found: dict[str, dict[str, Any]] = json.loads(lzma.decompress((DATA / "tokenizers.json.xz").read_bytes()))
    return found


def reference_vectors(model: str) -> NDArray[np.float32]:
    with np.load(DATA / "vectors.npz") as arrays:
        return np.asarray(arrays[model], np.float32)


def read_plan(path: Path, tokenizer: Mapping[str, Any], **config: object) -> VocabularyPlan:
    """Write the tokenizer's files into `path` and let the converter read them."""
    write_tokenizer(path, tokenizer)
    return read_tokenizer(ModelSourceDirectory(path, dict(config)), n_vocab_of(tokenizer))


class LlamaVocabulary:
    """A vocabulary as llama.cpp loads it, without a model around it."""

    def __init__(self, model: Any) -> None:
        self._vocab = llama_cpp.llama_model_get_vocab(model)

    def encode(self, text: str, *, add_special: bool = True) -> list[int]:
        data = text.encode()
        tokens = (ctypes.c_int32 * (len(data) + 16))()
        n = llama_cpp.llama_tokenize(self._vocab, data, len(data), tokens, len(tokens), add_special, True)
        assert n >= 0
        return list(tokens[:n])

    def text_of(self, token: int) -> str:
        return llama_cpp.llama_vocab_get_text(self._vocab, token).decode()


@contextmanager
def in_llama(plan: VocabularyPlan, path: Path) -> Iterator[LlamaVocabulary]:
    """Write a GGUF with this vocabulary and nothing else, and load it."""
    writer = gguf.GGUFWriter(path, "qwen3")
    plan.write(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    _llama_api.start_backend()  # with our log: llama-cpp-python's own fails on a token cut within a character
    params = llama_cpp.llama_model_default_params()
    params.vocab_only = True
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
    assert model, "llama.cpp refuses the vocabulary"
    try:
        yield LlamaVocabulary(model)
    finally:
        llama_cpp.llama_model_free(model)
