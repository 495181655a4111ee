"""A vocabulary ordered by id, as a GGUF stores it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import gguf

from gguf_embed.errors import ModelFileError

_MIN_SCORE = -10000.0  # as in llama.cpp's converter, for ids without a token


@dataclass(frozen=True, slots=True)
class VocabularyEntry:
    """One token: its text as llama.cpp's tokenizer looks it up, its type, and its score if there are scores."""

    text: str
    type: gguf.TokenType
    score: float = 0.0


@dataclass(frozen=True, slots=True)
class VocabularyTable:
    """The entries of ids 0 to n_tokens - 1. All texts differ: llama.cpp ends the process if two are equal."""

    entries: tuple[VocabularyEntry, ...]

    def write(self, writer: gguf.GGUFWriter, *, scores: bool) -> None:
        writer.add_token_list([entry.text for entry in self.entries])
        if scores:
            writer.add_token_scores([entry.score for entry in self.entries])
        writer.add_token_types([int(entry.type) for entry in self.entries])


def build_table(path: Path, entries: dict[int, VocabularyEntry], n_vocab: int) -> VocabularyTable:
    """Order entries by id; ids below `n_vocab` without a token become unused tokens.

    Raises `ModelFileError` for an id outside the model's vocabulary, an empty token, or two tokens with the same text.
    """
    outside = next((token for token in entries if not 0 <= token < n_vocab), None)
    if outside is not None:
        raise ModelFileError(f"{path}: token id {outside} is outside the config's vocab_size {n_vocab}")
    owners: dict[str, int] = {}
    for token, entry in entries.items():
        other = owners.setdefault(entry.text, token)
        if other != token or not entry.text:
            raise ModelFileError(f"{path}: tokens {other} and {token} are both {entry.text!r}, or empty")
    filled = []
    for token in range(n_vocab):
        filler = f"[PAD{token}]"
        while filler in owners:
            filler = f"[{filler}]"
        filled.append(entries.get(token) or VocabularyEntry(filler, gguf.TokenType.UNUSED, _MIN_SCORE))
    return VocabularyTable(tuple(filled))
