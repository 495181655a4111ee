"""Checks of the texts that a caller gives."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from gguf_embed.errors import InvalidRequest


def as_texts(texts: str | Iterable[str]) -> tuple[Sequence[str], bool]:
    """The texts as a sequence, and whether it was a single one. Raises `InvalidRequest` for anything but str."""
    if isinstance(texts, str):
        return [texts], True
    given = list(texts) if isinstance(texts, Iterable) and not isinstance(texts, (bytes, dict)) else None
    if given is None:
        raise InvalidRequest(f"embed() takes a str or a list of them, found {type(texts).__name__}", "texts")
    for index, text in enumerate(given):
        if not isinstance(text, str):
            raise InvalidRequest(f"texts[{index}] must be a str, found {type(text).__name__}", "texts", index)
    return given, False


def not_one(texts: Iterable[str]) -> Sequence[str]:
    """Raises `InvalidRequest` for a str, which would be read letter by letter."""
    given, is_one = as_texts(texts)
    if is_one:
        raise InvalidRequest("a list of texts is needed here, found a single str: write [text]", "texts")
    return given
