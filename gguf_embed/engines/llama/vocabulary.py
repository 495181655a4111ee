"""A loaded model's vocabulary in llama.cpp: text to ids and back, entries, special tokens."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import overload

from gguf_embed.engines.llama.api import Handle, llama, read_metadata, vocabulary_of
from gguf_embed.gguf_file.constants import VocabularyType
from gguf_embed.gguf_file.vocabulary import composes
from gguf_embed.types import Vocabulary

_KINDS = {int(family): family.kind for family in VocabularyType}


def tokenize(vocab: Handle, text: bytes, add_special: bool, parse_special: bool) -> list[int]:
    """llama.cpp's ids for UTF-8 text."""
    room = len(text) + 16
    while True:
        ids = (ctypes.c_int32 * room)()
        n = llama.llama_tokenize(vocab, text, len(text), ids, room, add_special, parse_special)
        if n >= 0:
            return list(ids[:n])
        room = -n


def token_bytes(vocab: Handle, token: int) -> bytes:
    """The text of one id as UTF-8 bytes, possibly a part of a character; special tokens in their written form."""
    room = 64
    while True:
        piece = ctypes.create_string_buffer(room)
        n = llama.llama_token_to_piece(vocab, token, piece, room, 0, True)
        if n >= 0:
            return piece.raw[:n]
        room = -n


def detokenize(vocab: Handle, tokens: Sequence[int]) -> bytes:
    """The text of a sequence of ids, with special tokens in their written form."""
    ids = (ctypes.c_int32 * len(tokens))(*tokens)
    room = max(64, 8 * len(tokens))
    while True:
        text = ctypes.create_string_buffer(room)
        n = llama.llama_detokenize(vocab, ids, len(tokens), text, room, False, True)
        if n >= 0:
            return text.raw[:n]
        room = -n


class VocabularyEntries(Sequence[str]):
    """The vocabulary's entries, read from the model on access. The model must stay loaded."""

    def __init__(self, vocab: Handle) -> None:
        self._vocab = vocab
        self._n = int(llama.llama_vocab_n_tokens(vocab))

    def __len__(self) -> int:
        return self._n

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[str, ...]: ...
    def __getitem__(self, index: int | slice) -> str | tuple[str, ...]:
        if isinstance(index, slice):
            return tuple(self[i] for i in range(*index.indices(self._n)))
        if not 0 <= index < self._n:
            raise IndexError(index)
        return (llama.llama_vocab_get_text(self._vocab, index) or b"").decode("utf-8", "replace")


def read_vocabulary(model: Handle) -> Vocabulary:
    """The vocabulary and its special ids."""
    vocab = vocabulary_of(model)
    entries = VocabularyEntries(vocab)
    n = len(entries)

    def special(token: int) -> int | None:
        return token if 0 <= token < n else None

    return Vocabulary(
        kind=_KINDS.get(int(llama.llama_vocab_type(vocab)), "unknown"),
        entries=entries,
        bos_id=special(llama.llama_vocab_bos(vocab)),
        eos_id=special(llama.llama_vocab_eos(vocab)),
        sep_id=special(llama.llama_vocab_sep(vocab)),
        unk_id=_read_int(model, "tokenizer.ggml.unknown_token_id"),
        pad_id=special(llama.llama_vocab_pad(vocab)),
        mask_id=special(llama.llama_vocab_mask(vocab)),
        adds_bos=bool(llama.llama_vocab_get_add_bos(vocab)),
        adds_eos=bool(llama.llama_vocab_get_add_eos(vocab)),
        adds_sep=bool(llama.llama_vocab_get_add_sep(vocab)),
        lowercase=_read_bool(model, "tokenizer.ggml.normalizer.lowercase"),
        strip_accents=_read_bool(model, "tokenizer.ggml.normalizer.strip_accents"),
        composes=composes(read_metadata(model, "tokenizer.ggml.pre"), read_metadata(model, "general.architecture")),
    )


def _read_int(model: Handle, key: str) -> int | None:
    value = read_metadata(model, key)
    return None if value is None else int(value)


def _read_bool(model: Handle, key: str) -> bool | None:
    value = read_metadata(model, key)
    return None if value is None else value == "true"
