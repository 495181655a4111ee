"""A Unigram vocabulary (SentencePiece, as in XLM-RoBERTa) in the form of llama.cpp's "t5" tokenizer."""

from __future__ import annotations

from base64 import b64decode
from dataclasses import dataclass
from typing import Any

import gguf

from gguf_embed.convert.fast_tokenizer import FastTokenizer, steps
from gguf_embed.convert.special_tokens import SpecialTokensTemplate, read_special_tokens, write_special_tokens
from gguf_embed.convert.vocabulary import VocabularyEntry, VocabularyTable, build_table

WORD_START = "\u2581"
_SPACES = (" ", WORD_START)
_SPACES_NOTE = "llama.cpp makes a token from a space at the beginning of a text; the original does not"


@dataclass(frozen=True, slots=True)
class UnigramVocabulary:
    """Everything about the tokenizer that the GGUF will contain."""

    table: VocabularyTable
    charsmap: bytes  # SentencePiece's compiled normalization rules; empty if there are none
    space_before: bool
    merges_spaces: bool
    template: SpecialTokensTemplate
    roles: dict[str, int]
    notes: tuple[str, ...]

    @property
    def n_tokens(self) -> int:
        return len(self.table.entries)

    def write(self, writer: gguf.GGUFWriter) -> None:
        writer.add_tokenizer_model("t5")
        writer.add_tokenizer_pre("default")  # ignored: llama.cpp has only one rule for Unigram
        self.table.write(writer, scores=True)
        writer.add_add_space_prefix(self.space_before)
        writer.add_remove_extra_whitespaces(self.merges_spaces)
        if self.charsmap:
            writer.add_precompiled_charsmap(self.charsmap)
        write_special_tokens(writer, self.template, self.roles)


def read_unigram(fast: FastTokenizer, n_vocab: int) -> UnigramVocabulary:
    """Read the vocabulary; ids are those of tokenizer.json (for XLM-RoBERTa in fairseq's order).

    Raises `ModelFileError` for a normalizer or pre-tokenizer that llama.cpp's "t5" does not do.
    """
    if fast.model.get("byte_fallback"):
        raise fast.refuse("a Unigram tokenizer with byte_fallback", "only without")
    unknown = fast.model["unk_id"]
    entries = {token: VocabularyEntry(text, gguf.TokenType.NORMAL, score) for token, (text, score) in _scored(fast)}
    for added in fast.added:
        kind = gguf.TokenType.CONTROL if added.special else gguf.TokenType.USER_DEFINED
        entries[added.id] = VocabularyEntry(added.text, kind, entries[added.id].score if added.id in entries else 0.0)
    entries[unknown] = VocabularyEntry(entries[unknown].text, gguf.TokenType.UNKNOWN, entries[unknown].score)
    normalizer = _read_normalizer(fast)
    space_before, splits = _read_pre_tokenizer(fast)
    merges_spaces = normalizer.merges_spaces or splits
    if normalizer.strips and not merges_spaces:
        raise fast.refuse("Strip without merging spaces before Unigram", "llama.cpp does both or neither")
    return UnigramVocabulary(
        table=build_table(fast.path, entries, n_vocab),
        charsmap=normalizer.charsmap,
        space_before=space_before,
        merges_spaces=merges_spaces,
        template=read_special_tokens(fast),
        roles=fast.roles | {"unk": unknown},
        notes=() if merges_spaces else (_SPACES_NOTE,),
    )


def _scored(fast: FastTokenizer) -> list[tuple[int, tuple[str, float]]]:
    return [(token, (str(text), float(score))) for token, (text, score) in enumerate(fast.model["vocab"])]


@dataclass(frozen=True, slots=True)
class _Normalizer:
    charsmap: bytes  # compiled rules
    merges_spaces: bool  # a run of spaces becomes one
    strips: bool  # drops spaces at both ends


def _read_normalizer(fast: FastTokenizer) -> _Normalizer:
    charsmap, merges_spaces, strips = b"", False, False
    for step in steps(fast.normalizer, "normalizers"):
        if step["type"] == "Precompiled":
            charsmap = b64decode(step["precompiled_charsmap"] or "")
        elif step["type"] == "Replace" and step["pattern"] == {"Regex": " {2,}"} and step["content"] in _SPACES:
            merges_spaces = True
        elif step["type"] == "Strip":
            strips = True
        else:
            raise fast.refuse(f"normalizer {step['type']!r} before Unigram", "only Precompiled, Strip, merging spaces")
    return _Normalizer(charsmap, merges_spaces, strips)


def _read_pre_tokenizer(fast: FastTokenizer) -> tuple[bool, bool]:
    """Whether a space is added before a text, and whether words are split at any run of whitespace."""
    space_before: bool | None = None
    splits = False
    for step in steps(fast.pre_tokenizer, "pretokenizers"):
        if step["type"] == "Metaspace" and step["replacement"] == WORD_START:
            space_before = _puts_space_before(step)
        elif step["type"] == "WhitespaceSplit":
            splits = True
        else:
            raise fast.refuse(f"pre-tokenizer {step['type']!r} before Unigram", "only WhitespaceSplit and Metaspace")
    if space_before is None:
        raise fast.refuse("Unigram without a Metaspace pre-tokenizer", "only with one")
    return space_before, splits


def _puts_space_before(step: dict[str, Any]) -> bool:
    scheme = step.get("prepend_scheme")
    return scheme != "never" if scheme is not None else bool(step.get("add_prefix_space", True))
