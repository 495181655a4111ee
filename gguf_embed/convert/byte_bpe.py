"""A byte-level BPE vocabulary (GPT-2, RoBERTa, ModernBERT, Qwen) in the form of llama.cpp's "gpt2" tokenizer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gguf

from gguf_embed.convert.fast_tokenizer import FastTokenizer, steps
from gguf_embed.convert.pre_tokenizers import choose_pre_tokenizer
from gguf_embed.convert.special_tokens import SpecialTokensTemplate, read_special_tokens, write_special_tokens
from gguf_embed.convert.vocabulary import VocabularyEntry, VocabularyTable, build_table

_NFC_NOTE = "llama.cpp does not compose characters (NFC): decomposed ones become different tokens than in the original"


@dataclass(frozen=True, slots=True)
class ByteBpeVocabulary:
    """Everything about the tokenizer that the GGUF will contain."""

    table: VocabularyTable
    merges: tuple[str, ...]  # "left right", best first
    pre: str
    template: SpecialTokensTemplate
    roles: dict[str, int]
    notes: tuple[str, ...]

    @property
    def n_tokens(self) -> int:
        return len(self.table.entries)

    def write(self, writer: gguf.GGUFWriter) -> None:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(self.pre)
        self.table.write(writer, scores=False)
        writer.add_token_merges(list(self.merges))
        write_special_tokens(writer, self.template, self.roles)


def is_byte_level(fast: FastTokenizer) -> bool:
    return any(step["type"] == "ByteLevel" for step in steps(fast.pre_tokenizer, "pretokenizers"))


def read_byte_bpe(fast: FastTokenizer, n_vocab: int) -> ByteBpeVocabulary:
    """Read the vocabulary. Raises `ModelFileError` for anything that llama.cpp's BPE does not do."""
    normalizers = [step["type"] for step in steps(fast.normalizer, "normalizers")]
    if set(normalizers) - {"NFC"}:
        raise fast.refuse(f"normalizer {', '.join(normalizers)} before byte-level BPE", "only NFC")
    for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"):
        if fast.model.get(key):
            raise fast.refuse(f"byte-level BPE with {key} {fast.model[key]!r}", "only without")
    entries = {int(token): VocabularyEntry(text, gguf.TokenType.NORMAL) for text, token in fast.model["vocab"].items()}
    for added in fast.added:
        kind = gguf.TokenType.CONTROL if added.special else gguf.TokenType.USER_DEFINED
        entries[added.id] = VocabularyEntry(added.text, kind)
    return ByteBpeVocabulary(
        table=build_table(fast.path, entries, n_vocab),
        merges=tuple(join_merge(merge) for merge in fast.model["merges"]),
        pre=choose_pre_tokenizer(fast),
        template=read_special_tokens(fast),
        roles=fast.roles,
        notes=(_NFC_NOTE,) if normalizers else (),
    )


def join_merge(merge: Any) -> str:
    """A merge as "left right"; tokenizer.json has this form or a list of two."""
    if isinstance(merge, str):
        return merge
    left, right = merge
    return f"{left} {right}"
