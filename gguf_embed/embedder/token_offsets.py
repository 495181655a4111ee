"""Offsets of a text's own tokens, for texts of any length: long ones are read in parts."""

from __future__ import annotations

from collections.abc import Iterator

from gguf_embed.preprocessing.tokenizers import SpecialTokens, Tokenizer
from gguf_embed.types import Span

PART_CHARACTERS = 10_000
"""Some tokenizers keep the GIL, and a part of this size takes about 10 ms: batches are not held up."""


def own_token_offsets(text: str, tokenizer: Tokenizer, special: SpecialTokens) -> list[Span | None]:
    """Each token's characters, without the special tokens around the text; None: not in the text, or unknown.

    At the end of a part, the tokens can differ from those of the whole text if its tokenizer joins words.
    """
    n_opening, n_closing = len(special.opening), len(special.closing)
    found: list[Span | None] = []
    for start, end in parts(text, min(PART_CHARACTERS, tokenizer.max_offset_characters)):
        _, spans = tokenizer.encode_with_offsets(text[start:end])
        own = spans[n_opening : len(spans) - n_closing]
        found += own if start == 0 else [span and (span[0] + start, span[1] + start) for span in own]
    return found


def parts(text: str, n_characters: int) -> Iterator[Span]:
    """Consecutive spans of at most so many characters, which end before white space if there is some."""
    start = 0
    while len(text) - start > n_characters:
        end = _last_space(text, start + n_characters // 2, start + n_characters) or start + n_characters
        yield start, end
        start = end
    if start < len(text):
        yield start, len(text)


def _last_space(text: str, low: int, high: int) -> int | None:
    """The last white space after a letter, so that the space begins the next part, as most tokenizers have it."""
    for at in range(high, low, -1):
        if text[at].isspace() and not text[at - 1].isspace():
            return at
    return None
