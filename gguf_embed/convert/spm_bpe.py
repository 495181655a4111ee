"""SentencePiece BPE with byte fallback (Gemma), for llama.cpp's "llama" or "gemma4" tokenizer.

"llama" merges the pair whose union has the best score. This equals the original if tokenizer.json came from a
SentencePiece model: then every split of a token into two tokens is a merge, all with that token's rank. For any other
tokenizer the merges are written out, for "gemma4".
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass
from itertools import pairwise

import gguf

from gguf_embed.convert.byte_bpe import join_merge
from gguf_embed.convert.fast_tokenizer import AddedToken, FastTokenizer, steps
from gguf_embed.convert.special_tokens import SpecialTokensTemplate, read_special_tokens, write_special_tokens
from gguf_embed.convert.vocabulary import VocabularyEntry, VocabularyTable, build_table

WORD_START = "\u2581"
_BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))


@dataclass(frozen=True, slots=True)
class SpmBpeVocabulary:
    """Everything about the tokenizer that the GGUF will contain. `merges` is None if the scores suffice."""

    table: VocabularyTable
    merges: tuple[str, ...] | None
    template: SpecialTokensTemplate
    roles: dict[str, int]
    notes: tuple[str, ...] = ()

    @property
    def n_tokens(self) -> int:
        return len(self.table.entries)

    def write(self, writer: gguf.GGUFWriter) -> None:
        if self.merges is None:
            writer.add_tokenizer_model("llama")
            writer.add_tokenizer_pre("default")
        else:
            writer.add_tokenizer_model("gemma4")
            writer.add_token_merges(list(self.merges))
        self.table.write(writer, scores=True)
        writer.add_add_space_prefix(False)
        write_special_tokens(writer, self.template, self.roles)


def replaces_spaces(fast: FastTokenizer) -> bool:
    """Whether the normalizer only replaces spaces by "▁", as Gemma's does."""
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": WORD_START}
    return list(steps(fast.normalizer, "normalizers")) == [replace]


def read_spm_bpe(fast: FastTokenizer, n_vocab: int) -> SpmBpeVocabulary:
    """Read the vocabulary. Raises `ModelFileError` for anything that neither of llama.cpp's two tokenizers does."""
    _check_pre_tokenizer(fast)
    vocab: dict[str, int] = fast.model["vocab"]
    if not fast.model.get("byte_fallback") or not vocab.keys() >= set(_BYTES):
        raise fast.refuse("BPE without a token for every byte", "llama.cpp needs <0x00> to <0xFF>")
    merges = tuple(join_merge(merge) for merge in fast.model["merges"])
    pairs = [tuple(merge.split(" ")) for merge in merges]
    template = read_special_tokens(fast)
    by_score = _scores_suffice(fast, pairs)
    if not by_score and template.opening is None:
        raise fast.refuse("this BPE without a token before each text", "llama.cpp's gemma4 tokenizer always adds BOS")
    return SpmBpeVocabulary(
        table=build_table(fast.path, _entries(fast, rank_tokens(pairs)), n_vocab),
        merges=None if by_score else merges,
        template=template,
        roles=fast.roles,
    )


def _check_pre_tokenizer(fast: FastTokenizer) -> None:
    for step in steps(fast.pre_tokenizer, "pretokenizers"):
        if step["type"] != "Split" or step["pattern"] != {"String": " "}:  # that one has no effect: no space is left
            raise fast.refuse(f"pre-tokenizer {step['type']!r} after spaces became {WORD_START!r}", "only Split at ' '")


def _scores_suffice(fast: FastTokenizer, pairs: Sequence[tuple[str, ...]]) -> bool:
    """Whether one score per token gives the same result as the list of merges."""
    added = {token.text for token in fast.added}  # found in the text before any merging
    plain = set(fast.model["vocab"]) - set(_BYTES) - added
    return stand_together(pairs, plain) and has_all_splits(pairs, plain)


def rank_tokens(pairs: Sequence[tuple[str, ...]]) -> dict[str, int]:
    """The rank of each token that merges produce, best first, by the first merge that does."""
    ranks: dict[str, int] = {}
    for left, right in pairs:
        ranks.setdefault(left + right, len(ranks))
    return ranks


def stand_together(pairs: Sequence[tuple[str, ...]], tokens: Set[str]) -> bool:
    """Whether all merges that produce one of `tokens` are adjacent, so that one rank can represent them."""
    results = [left + right for left, right in pairs if left + right in tokens]
    n_runs = sum(result != before for before, result in pairwise(["", *results]))
    return n_runs == len(set(results))


def has_all_splits(pairs: Sequence[tuple[str, ...]], tokens: Set[str]) -> bool:
    """Whether every way to split a token into two tokens is a merge."""
    known = set(pairs)
    return all(
        (token[:cut], token[cut:]) in known
        for token in tokens
        for cut in range(1, len(token))
        if token[:cut] in tokens and token[cut:] in tokens
    )


def _entries(fast: FastTokenizer, ranks: dict[str, int]) -> dict[int, VocabularyEntry]:
    vocab: dict[str, int] = fast.model["vocab"]
    entries: dict[int, VocabularyEntry] = {}
    for text, token in vocab.items():
        kind = gguf.TokenType.BYTE if text in _BYTES else gguf.TokenType.NORMAL
        entries[token] = VocabularyEntry(text, kind, -float(ranks.get(text, len(ranks))))
    for added in fast.added:
        # llama.cpp would look for "▁▁" in the unchanged text, which has spaces instead: merges have to produce it
        if WORD_START not in added.text or added.normalized or added.text not in ranks:
            entries[added.id] = _added_entry(added, fast)
    return entries


def _added_entry(added: AddedToken, fast: FastTokenizer) -> VocabularyEntry:
    """An added token in the form in which it appears in the text: llama.cpp looks for it before spaces become "▁"."""
    if added.text == fast.model.get("unk_token"):
        return VocabularyEntry(added.text, gguf.TokenType.UNKNOWN)
    if added.special:
        return VocabularyEntry(added.text, gguf.TokenType.CONTROL)
    text = added.text.replace(WORD_START, " ") if added.normalized else added.text
    return VocabularyEntry(text, gguf.TokenType.USER_DEFINED)
