"""A call with many texts is computed in slices: the next is tokenized while the first is computed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TypeVar

from gguf_embed.embedder.words import shifted
from gguf_embed.errors import EmbedError
from gguf_embed.service.several import run_several

_T = TypeVar("_T")

SLICE_CHARACTERS = 1_000_000


def slices(texts: Sequence[str], n_texts: int) -> list[range]:
    """Consecutive ranges that cover all texts, of at most `n_texts` and `SLICE_CHARACTERS`, or of one text."""
    found: list[range] = []
    first = n_characters = 0
    for index, text in enumerate(texts):
        n_characters += len(text)
        if index > first and (index - first >= n_texts or n_characters > SLICE_CHARACTERS):
            found.append(range(first, index))
            first, n_characters = index, len(text)
    return [*found, range(first, len(texts))]


async def in_slices(
    texts: Sequence[str], n_texts: int, n_at_once: int, work: Callable[[Sequence[str]], Awaitable[_T]]
) -> list[_T]:
    """The results of `work` for all slices, in order. The first error cancels the rest; its index counts all texts."""
    parts = slices(texts, n_texts)
    if len(parts) == 1:
        return [await work(texts)]

    async def run(part: range) -> _T:
        try:
            return await work(texts[part.start : part.stop])
        except EmbedError as error:
            raise shifted(error, part.start) from None

    return await run_several([partial(run, part) for part in parts], n_at_once)
