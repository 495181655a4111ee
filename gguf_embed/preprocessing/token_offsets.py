"""Character offsets of tokens, computed only for the part of a text that is read, within a budget per request."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gguf_embed.errors import InvalidRequest
from gguf_embed.preprocessing.tokenizers import Tokenizer
from gguf_embed.preprocessing.tokens import TokenizedText
from gguf_embed.tokenization.offsets import MAX_OFFSET_CHARACTERS
from gguf_embed.tokenization.unicode import valid_unicode
from gguf_embed.types import Input, Span

FOLLOWING_TOKENS = 8
"""Tokens to keep between the last token that is read and the end of the shortened text: cutting a text changes the
tokens next to the cut."""

FOLLOWING_CHARACTERS = 32
"""Characters to keep after a prompt, for the same reason."""


def check_offset_budget(inputs: Sequence[Input]) -> None:
    """Refuse inputs whose offsets would make the reply too long. Raises `InvalidRequest`.

    Duplicates count too: they are tokenized once, but each has its offsets in the reply.
    """
    n_characters = sum(map(len, inputs))
    if n_characters > MAX_OFFSET_CHARACTERS:
        raise InvalidRequest(
            f"token offsets are limited to {MAX_OFFSET_CHARACTERS:,} characters per request, this one has "
            f"{n_characters:,}: send several requests"
        )


class OffsetMapper:
    """Token offsets for the texts of one request. Up to 20 microseconds per character, with some tokenizers."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._n_left = tokenizer.max_offset_characters

    def for_kept(self, text: str, kept: TokenizedText) -> list[Span | None]:
        """The offsets of each token in `kept`; None for a closing token that replaced the last one.

        Raises `InvalidRequest` if the parts of the request's texts that are read exceed the tokenizer's limit.
        """
        beginning = self._read_part(valid_unicode(text), kept)
        self._spend(beginning)
        ids, spans = self._tokenizer.encode_with_offsets(beginning)
        assert len(ids) >= len(kept.tokens), (len(ids), kept.n_tokens)
        del spans[len(kept.tokens) :]
        if kept.tokens[-1] != ids[len(kept.tokens) - 1]:
            spans[-1] = None
        return spans

    def count_within(self, text: str, n_characters: int, n_opening: int, tokens: Sequence[int]) -> int:
        """How many of `tokens`, after the opening ones, end within the first `n_characters`. Raises as `for_kept`."""
        whole = valid_unicode(text)
        for n_read in _growing(n_characters + FOLLOWING_CHARACTERS, len(whole)):
            beginning = whole[:n_read]
            self._spend(beginning)
            ids, spans = self._tokenizer.encode_with_offsets(beginning)
            own = enumerate(spans[n_opening:], 1)
            count = max((count for count, span in own if span and span[1] <= n_characters), default=0)
            if list(tokens[: n_opening + count]) == ids[: n_opening + count]:
                return count
        return count

    def _read_part(self, text: str, kept: TokenizedText) -> str:
        """The text, or a beginning of it that is long enough for the tokens in `kept`."""
        n_kept = len(kept.tokens)
        if n_kept == kept.n_tokens:
            return text
        wanted = list(kept.tokens[: n_kept - 1])  # a closing token may have replaced the last one
        share = (n_kept + FOLLOWING_TOKENS) / kept.n_tokens
        for n_read in _growing(int(len(text) * share * 1.25) + FOLLOWING_CHARACTERS, len(text)):
            ids = self._tokenizer.encode(text[:n_read])
            if len(ids) >= n_kept + FOLLOWING_TOKENS and ids[: n_kept - 1] == wanted:
                return text[:n_read]
        return text

    def _spend(self, text: str) -> None:
        self._n_left -= len(text)
        if self._n_left < 0:
            raise InvalidRequest(
                f"this model's token offsets are limited to {self._tokenizer.max_offset_characters:,} characters per "
                "request, and this one has more (spans, token details, and a prompt before windows need them): send "
                "several requests"
            )


def _growing(n_first: int, n_all: int) -> Iterator[int]:
    """Lengths to try: `n_first`, then twice as much each time, and finally `n_all`."""
    n_read = n_first
    while n_read < n_all:
        yield n_read
        n_read *= 2
    yield n_all
