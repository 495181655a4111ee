"""Tokenizes prompts that a model's file or its authors prescribe, with a client's texts in them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from gguf_embed.preprocessing.tokenizers import Tokenizer

_PLACEHOLDERS = re.compile(r"(\{query\}|\{document\}|\{instruction\})")
_MAYBE_SPECIAL = re.compile(r"(<[^<>\s]+>|\[[A-Z_]+\])")


class PlainTokenizer:
    """Tokenizes parts of a template. Only the template's own special tokens count, never those in a client's text."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def text(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer.encode(text, add_special=False, parse_special=False)) if text else ()

    def special(self, text: str) -> int | None:
        """The id of a special token in its written form; None for ordinary text."""
        ids = self._tokenizer.encode(text, add_special=False)
        return ids[0] if len(ids) == 1 else None


def ids_of(tokenizer: PlainTokenizer, run: int | str) -> tuple[int, ...]:
    return (run,) if isinstance(run, int) else tokenizer.text(run)


def runs_of(tokenizer: PlainTokenizer, template: str, texts: Mapping[str, str]) -> list[int | str]:
    """The ids of special tokens and the texts between them, with `texts` filled in. Never empty."""
    runs: list[int | str] = [""]
    for part in _parts(template):
        token = tokenizer.special(part) if _MAYBE_SPECIAL.fullmatch(part) else None
        last = runs[-1]
        if token is not None:
            runs.append(token)
        elif isinstance(last, str):
            runs[-1] = last + texts.get(part, part)
        else:
            runs.append(texts.get(part, part))
    return runs


def _parts(template: str) -> Iterator[str]:
    for piece in _PLACEHOLDERS.split(template):
        yield from (
            [piece] if _PLACEHOLDERS.fullmatch(piece) else (part for part in _MAYBE_SPECIAL.split(piece) if part)
        )
