"""Where a text's tokens stand in it: found no further than tokens are read, within a budget per request."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gguf_embed.errors import InvalidRequest
from gguf_embed.preprocessing.tokens import TokenizedText, Tokenizer
from gguf_embed.tokenization.offsets import MAX_OFFSET_CHARACTERS
from gguf_embed.tokenization.unicode import valid_unicode
from gguf_embed.types import Input, Span

FOLLOWING_TOKENS = 8
"""That stand between the last token that is read and the place where its text is cut: a cut changes those beside it."""

FOLLOWING_CHARACTERS = 32
"""The same for a prompt, whose end is known in characters."""


def check_offset_budget(inputs: Sequence[Input]) -> None:
    """Refuse what would be too long in the reply, before anything is done with it. Raises `InvalidRequest`.

    All inputs count: equal ones are read once, but told each.
    """
    n_characters = sum(map(len, inputs))
    if n_characters > MAX_OFFSET_CHARACTERS:
        raise InvalidRequest(
            f"tokens get offsets in {MAX_OFFSET_CHARACTERS:,} characters per request, this one has "
            f"{n_characters:,}: send several requests"
        )


class OffsetMapper:
    """Places for the texts of one request. Pure Python for some tokenizers, up to 20 microseconds a character."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._n_left = tokenizer.max_offset_characters

    def for_kept(self, text: str, kept: TokenizedText) -> list[Span | None]:
        """Of each token that is read; None for a closing one in the place of the last.

        Raises `InvalidRequest` when the request's texts, as far as they are read, are over the tokenizer's limit.
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
        """How many of the `tokens` after the opening ones stand within the first characters. Raises as `for_kept`."""
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
        """The text, or a beginning of it that gives the tokens that are read and some more."""
        n_kept = len(kept.tokens)
        if n_kept == kept.n_tokens:
            return text
        wanted = list(kept.tokens[: n_kept - 1])  # a closing token may stand in the place of the last
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
                f"this model's tokens are placed in {self._tokenizer.max_offset_characters:,} characters per request "
                "(for spans, return_tokens, or a prompt before windows), and this one has more: send several requests"
            )


def _growing(n_first: int, n_all: int) -> Iterator[int]:
    """Lengths of the beginnings to try, each twice the one before; the last is all."""
    n_read = n_first
    while n_read < n_all:
        yield n_read
        n_read *= 2
    yield n_all
