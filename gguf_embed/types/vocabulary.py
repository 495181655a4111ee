"""A model's vocabulary, whichever engine read it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The model's own vocabulary as its file stores it, and what is put around a text.

    `kind` is llama.cpp's family: "wpm" (WordPiece), "bpe", "spm", "ugm", "none"… WordPiece entries are in llama.cpp's
    form: "▁the" begins a word, "ing" continues one (the original "##ing").
    """

    kind: str
    entries: Sequence[str]  # may be read from the model one by one: make a tuple of it before going through it twice
    bos_id: int | None  # [CLS] for BERT
    eos_id: int | None
    sep_id: int | None
    unk_id: int | None
    pad_id: int | None
    mask_id: int | None
    adds_bos: bool  # what the file says is added to a text
    adds_eos: bool
    adds_sep: bool
    lowercase: bool | None = None  # what the file says of its WordPiece rules; None: nothing
    strip_accents: bool | None = None
    composes: bool = False  # the original tokenizer composes Unicode characters (NFC) and the engine's does not
