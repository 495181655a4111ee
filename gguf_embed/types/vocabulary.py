"""A model's vocabulary, independent of the engine that read it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The vocabulary as the model's file stores it, and the special tokens added to a text.

    `kind` is llama.cpp's name for the family: "wpm" (WordPiece), "bpe", "spm", "ugm", "none"… WordPiece entries are in
    llama.cpp's form: "▁the" begins a word, "ing" continues one (the original has "##ing").
    """

    kind: str
    entries: Sequence[str]  # may be read from the model on each access: copy it to a tuple before iterating twice
    bos_id: int | None = None  # [CLS] for BERT
    eos_id: int | None = None
    sep_id: int | None = None
    unk_id: int | None = None
    pad_id: int | None = None
    mask_id: int | None = None
    adds_bos: bool = False  # whether the file asks for it around a text
    adds_eos: bool = False
    adds_sep: bool = False
    lowercase: bool | None = None  # WordPiece rule, if the file states it
    strip_accents: bool | None = None
    composes: bool = False  # the original tokenizer normalizes to NFC, and the engine's does not

    def text_of(self, token: int | None) -> str:
        """The entry of an id of the vocabulary; "" for a special token that it does not have."""
        return "" if token is None else self.entries[token]
