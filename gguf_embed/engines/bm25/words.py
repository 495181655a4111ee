"""Texts to the ids of their words' stems, as fastembed's `Qdrant/bm25` reads them."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Collection, Sequence

from gguf_embed.engines.bm25.murmur import murmur3
from gguf_embed.errors import ConfigError, ModelFileError
from gguf_embed.types import Span

_WORD = re.compile(r"\w+")
_KNOWN_WORDS = 2**17  # whose ids are kept

Stem = Callable[[str], str]


def open_stemmer(language: str) -> Stem:
    """Raises `ConfigError` without the package, `ModelFileError` for a language that it does not know."""
    try:
        from py_rust_stemmers import SnowballStemmer
    except ImportError as error:
        raise ConfigError("BM25 needs the package py-rust-stemmers: pip install 'gguf-embed[bm25]'") from error
    try:
        stem: Stem = SnowballStemmer(language).stem_word
    except ValueError as error:
        raise ModelFileError(f"there is no stemmer for the language {language!r}") from error
    return stem


class WordHashes:
    """Any thread."""

    def __init__(self, stem: Stem, stop_words: Collection[str], longest_word: int) -> None:
        self._stem = stem
        self._stop_words = frozenset(stop_words)
        self._longest_word = longest_word
        self._id_of = functools.lru_cache(_KNOWN_WORDS)(self._new_id)

    def ids(self, text: str) -> list[int]:
        """One for each word that is not left out; words that occur twice have two."""
        found = map(self._id_of, _WORD.findall(text.lower()))
        return [id_ for id_ in found if id_ is not None]

    def ids_with_offsets(self, text: str) -> tuple[list[int], Sequence[Span]]:
        lowered, starts = text.lower(), _starts(text)
        matches = [(self._id_of(match[0]), match.span()) for match in _WORD.finditer(lowered)]
        kept = [(id_, span) for id_, span in matches if id_ is not None]
        return [id_ for id_, _ in kept], [(starts[begin], starts[end - 1] + 1) for _, (begin, end) in kept]

    def _new_id(self, word: str) -> int | None:
        """None for a word that is left out. A hash is read as a signed number, of which the sign is dropped."""
        if word == "_" or word in self._stop_words or len(word) > self._longest_word:
            return None
        stem = self._stem(word)
        if not stem:
            return None
        number = murmur3(stem.encode())
        return min(number, 2**32 - number, 2**31 - 1)


def _starts(text: str) -> Sequence[int]:
    """For each character of the text in lower case, the one that it comes from: "İ" has two in lower case."""
    lengths = [len(character.lower()) for character in text]
    if max(lengths, default=1) == 1:
        return range(len(text))
    return [index for index, length in enumerate(lengths) for _ in range(length)]
