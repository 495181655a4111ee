"""GGUFs with a WordPiece vocabulary and nothing else, and what llama.cpp makes of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import gguf

from gguf_embed.engines.base import TextCodec
from gguf_embed.engines.llama.codec import open_codec
from gguf_embed.gguf_file.header import read_header
from gguf_embed.gguf_file.vocabulary import read_wordpiece_vocabulary
from gguf_embed.tokenization.wordpiece_codec import WordPieceCodec
from gguf_embed.types import Vocabulary

Value = bool | int | str


def write_vocabulary(
    path: Path,
    entries: Sequence[str | bytes],
    types: Sequence[int] | None = None,
    model: str = "bert",
    **keys: Value,
) -> Path:
    """`keys` are the rest of `tokenizer.ggml.…`: `bos_token_id=1`, or `normalizer_lowercase=True` for a dot."""
    writer = gguf.GGUFWriter(path, "bert")
    writer.add_tokenizer_model(model)
    writer.add_token_list(list(entries))
    if types is not None:
        writer.add_token_types(list(types))
    for name, value in keys.items():
        key = f"tokenizer.ggml.{name.replace('normalizer_', 'normalizer.')}"
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        else:
            writer.add_string(key, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


def wordpiece_codec(path: Path) -> WordPieceCodec:
    stored = read_wordpiece_vocabulary(read_header(path))
    return WordPieceCodec(stored.vocabulary, stored.piece, strips_first_space=stored.strips_first_space)


@contextmanager
def llama_codec(path: Path) -> Iterator[TextCodec]:
    opened = open_codec(path)
    try:
        yield opened.codec
    finally:
        opened.close()


def in_full(vocabulary: Vocabulary) -> Vocabulary:
    """The same with its entries in memory, to compare it."""
    return replace(vocabulary, entries=tuple(vocabulary.entries))
