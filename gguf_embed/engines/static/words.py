"""Tokenizes texts into the words of a word-vector table, without unknown words (rules: docs/static-models.md)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

from gguf_embed.engines.static.piece_cache import PieceCache, split_at_spaces
from gguf_embed.tokenization.offsets import find_in_order
from gguf_embed.types import Span

_PARTS: Final = re.compile(r"<\w+>|\w+(?:['.,&-]\w+)*|[^\w\s]+")
_FINEST: Final = re.compile(r"\w+|[^\w\s]")
_APOSTROPHES: Final = str.maketrans({"’": "'", "ʼ": "'"})


class WordTokenizer:
    """Implements `TextTokenizer` for a list of words. Thread-safe."""

    def __init__(self, words: Sequence[str], lowercase: bool) -> None:
        """If a word occurs twice, its first row is used."""
        self._words = words
        self._ids = {word: token for token, word in zip(range(len(words) - 1, -1, -1), reversed(words), strict=True)}
        self._lowercase = lowercase
        self._cache = PieceCache(split_at_spaces, lambda pieces: [self._encode_piece(piece) for piece in pieces])

    @property
    def entries(self) -> Sequence[str]:
        return self._words

    def encode_batch(self, texts: Sequence[str], *, parse_special: bool = True) -> list[list[int]]:
        """Known words only. There are no special tokens, so `parse_special` has no effect."""
        return self._cache.encode_batch(texts)

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[Span | None]]:
        """Offsets within a piece of text that has several words are given only where they are certain."""
        ids: list[int] = []
        spans: list[Span | None] = []
        for match in re.finditer(r"\S+", text):
            found = self._encode_piece(match[0])
            ids += found
            spans += self._offsets_in(match, found)
        return ids, spans

    def _offsets_in(self, match: re.Match[str], found: Sequence[int]) -> Sequence[Span | None]:
        if len(found) == 1 and self._look_up(match[0]) is not None:
            return [match.span()]
        lowered = "".join(map(_lower, match[0].translate(_APOSTROPHES)))
        words = ["".join(map(_lower, self._words[token].translate(_APOSTROPHES))) for token in found]
        begin = match.start()
        return [span and (begin + span[0], begin + span[1]) for span in find_in_order(lowered, words)]

    def piece(self, token: int) -> str:
        return self._words[token]

    def decode(self, tokens: Sequence[int]) -> str:
        return " ".join(self._words[token] for token in tokens)

    def _encode_piece(self, piece: str) -> list[int]:
        """The longest known parts of a piece of text between two spaces, which may contain other whitespace."""
        return [token for part in piece.split() for token in self._encode_part(part)]

    def _encode_part(self, text: str) -> Iterator[int]:
        whole = self._look_up(text)
        if whole is not None:
            yield whole
            return
        for part in _PARTS.findall(text.translate(_APOSTROPHES)):
            known = self._look_up(part)
            if known is not None:
                yield known
            else:
                yield from self._contracted(part) or self._finest(part)

    def _contracted(self, part: str) -> list[int]:
        """ "don't" as "do" and "n't", "cat's" as "cat" and "'s", if the table has both (those from parsed text do)."""
        head, apostrophe, tail = part.rpartition("'")
        if not apostrophe:
            return []
        if tail.lower() == "t" and head[-1:].lower() == "n":
            halves = [self._look_up(head[:-1]), self._look_up(head[-1] + "'" + tail)]
        else:
            halves = [self._look_up(head), self._look_up("'" + tail)]
        known = [token for token in halves if token is not None]
        return known if len(known) == len(halves) else []

    def _finest(self, part: str) -> list[int]:
        found = [self._look_up(word) for word in _FINEST.findall(part)]
        return [token for token in found if token is not None]

    def _look_up(self, word: str) -> int | None:
        """Look up the word as written, then in lower case; only in lower case if the table has no capitals."""
        if self._lowercase:
            return self._ids.get(word.lower())
        token = self._ids.get(word)
        return self._ids.get(word.lower()) if token is None else token


def _lower(character: str) -> str:
    """The character in lower case, if that is one character: "İ" has two in lower case and stays unchanged."""
    lowered = character.lower()
    return lowered if len(lowered) == 1 else character
