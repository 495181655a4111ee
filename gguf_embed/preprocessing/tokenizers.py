"""The tokenizers of models: the original one where a file has it or it can be rebuilt, else llama.cpp's."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from gguf_embed.engines.base import ExactTokenizing, TextCodec
from gguf_embed.preprocessing.abandoned import check_abandoned
from gguf_embed.tokenization.offsets import MAX_ALIGNED_CHARACTERS, MAX_OFFSET_CHARACTERS, align
from gguf_embed.tokenization.unicode import valid_unicode
from gguf_embed.tokenization.wordpiece import ExactWordPiece
from gguf_embed.types import Span

TokenizerChoice = Literal["auto", "llama"]


class Tokenizer(Protocol):
    """Text to vocabulary ids. Thread-safe. By default "[SEP]" and the like in a text become that special token."""

    name: str  # "exact" (the model's own rules) or "llama" (llama.cpp's)
    max_offset_characters: int  # characters per request that `encode_with_offsets` may be given

    def encode(self, text: str, *, add_special: bool = True, parse_special: bool = True) -> list[int]:
        """Without `parse_special`, "[SEP]" in the text is ordinary text."""
        ...

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of each text, special tokens added, in order."""
        ...

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[Span | None]]:
        """`encode` with special tokens added, and each token's offsets; None: not in the text, or unknown."""
        ...


class LlamaTokenizer:
    """llama.cpp's tokenizer: for every vocabulary except WordPiece, or as configured."""

    name = "llama"
    max_offset_characters = MAX_ALIGNED_CHARACTERS

    def __init__(self, codec: TextCodec, *, composes: bool = False) -> None:
        """`composes`: normalize texts to NFC first, as the original tokenizer does and llama.cpp does not."""
        self._codec = codec
        self._composes = composes

    def encode(self, text: str, *, add_special: bool = True, parse_special: bool = True) -> list[int]:
        valid = valid_unicode(text)
        read = unicodedata.normalize("NFC", valid) if self._composes else valid
        return self._codec.tokenize(read, add_special=add_special, parse_special=parse_special)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [self._encode_unless_abandoned(text) for text in texts]

    def _encode_unless_abandoned(self, text: str) -> list[int]:
        check_abandoned()
        return self.encode(text)

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[Span | None]]:
        tokens, special = self.encode(text), special_tokens_of(self)
        unknown = self._codec.vocabulary().unk_id
        own = tokens[len(special.opening) : len(tokens) - len(special.closing)]
        bytes_of = {token: self._codec.token_bytes(token) for token in set(own)}
        spans = align(valid_unicode(text), [None if token == unknown else bytes_of[token] for token in own])
        return tokens, [*(None for _ in special.opening), *spans, *(None for _ in special.closing)]


class FileTokenizer:
    """The original tokenizer, which the codec has: stored in the model's file, or rebuilt from its vocabulary."""

    name = "exact"
    max_offset_characters = MAX_OFFSET_CHARACTERS

    def __init__(self, codec: TextCodec, exact: ExactTokenizing) -> None:
        """`codec` and `exact` are the same object, seen as two protocols."""
        self._codec = codec
        self._exact = exact

    def encode(self, text: str, *, add_special: bool = True, parse_special: bool = True) -> list[int]:
        return self._codec.tokenize(valid_unicode(text), add_special=add_special, parse_special=parse_special)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return self._exact.tokenize_batch([valid_unicode(text) for text in texts])

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[Span | None]]:
        return self._exact.tokenize_with_offsets(valid_unicode(text))


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """The special tokens that a tokenizer puts before and after a text."""

    opening: tuple[int, ...]
    closing: tuple[int, ...]

    def surround(self, tokens: Sequence[int]) -> bool:
        """Whether `tokens` begin and end with them."""
        n_opening, n_closing = len(self.opening), len(self.closing)
        return (
            len(tokens) >= n_opening + n_closing
            and tuple(tokens[:n_opening]) == self.opening
            and tuple(tokens[len(tokens) - n_closing :]) == self.closing
        )


def special_tokens_around(with_special: Sequence[int], plain: Sequence[int]) -> SpecialTokens | None:
    """The special tokens around a text's own ids `plain` in `with_special`; None if `plain` is not found there."""
    begins = range(len(with_special) - len(plain) + 1)
    begin = next((at for at in begins if list(with_special[at : at + len(plain)]) == list(plain)), None)
    if begin is None:
        return None
    return SpecialTokens(tuple(with_special[:begin]), tuple(with_special[begin + len(plain) :]))


def special_tokens_of(tokenizer: Tokenizer) -> SpecialTokens:
    """Find them by tokenizing one letter with and without special tokens."""
    with_special, plain = tokenizer.encode("a"), tokenizer.encode("a", add_special=False)
    found = special_tokens_around(with_special, plain) if plain else None
    if found is not None:
        return found
    middle = len(with_special) // 2 if not plain else 0
    return SpecialTokens(tuple(with_special[:middle]), tuple(with_special[middle + len(plain) :]))


def choose_tokenizer(codec: TextCodec, exact: ExactTokenizing | None, choice: TokenizerChoice) -> Tokenizer:
    """The original tokenizer if the codec has it or it can be rebuilt (WordPiece), else llama.cpp's.

    "llama" always means llama.cpp's, if llama.cpp runs the model. Raises `ModelFileError` for an incomplete WordPiece
    vocabulary.
    """
    if exact is not None:
        return FileTokenizer(codec, exact)
    if choice == "llama":
        return LlamaTokenizer(codec)
    vocabulary = codec.vocabulary()
    if vocabulary.kind == "wpm":
        return ExactWordPiece(vocabulary)
    return LlamaTokenizer(codec, composes=vocabulary.composes)
