"""What CrispEmbed's files say about their tokenizer, under our keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

RAW_VOCABULARY: Final = "gguf-embed.raw_vocabulary"
"""Not in any file: WordPiece entries are in the original's form, "##ing" continues a word."""

UNIGRAM: Final = "gguf-embed.unigram"
"""Not in any file: the tokenizer is SentencePiece's, of which the file has entries and scores."""

MERGES_AT, MERGES_BYTES = "gguf-embed.merges.offset", "gguf-embed.merges.size"
"""Not in any file: where the merges of a BPE tokenizer are, in bytes from the beginning of the tensors' data."""

MERGE_TENSORS: Final = ("tokenizer.merges_nul", "tokenizer.merges")
"""The preferred one first."""

KIND: Final = "tokenizer.ggml.type"
WORDPIECE, BPE, SENTENCEPIECE = 0, 1, 2
"""Numbers in `KIND`."""

_GPT2: Final = "modern-bert"
"""The value of `tokenizer.ggml.pre` for GPT-2's rules. Older files have none of these keys."""

_MPNET_IDS: Final = {"bos": 0, "padding": 1, "eos": 2, "seperator": 2}
"""Older files have BERT's 101 for the first one."""

Facts = dict[str, int | bool | str]


def is_readable(metadata: Mapping[str, object]) -> bool:
    """Whether the kind of tokenizer in a file of its own layout is known here."""
    if metadata.get(KIND) != BPE:
        return metadata.get(KIND) in (WORDPIECE, SENTENCEPIECE)
    ends = [metadata.get(f"tokenizer.ggml.add_{role}_token") for role in ("bos", "eos")]
    has_other_rules = any(metadata.get(f"tokenizer.ggml.{key}") for key in ("is_spm_bpe", "ignore_merges"))
    rules = metadata.get("tokenizer.ggml.pre", _GPT2 if ends == [None, None] else None)
    return rules == _GPT2 and not has_other_rules and False not in ends


def tokenizer_facts(metadata: Mapping[str, object], architecture: str, *, pads_positions: bool) -> Facts:
    """`pads_positions`: the table of positions begins with rows of padding, as in RoBERTa and XLM-R."""
    kind = metadata.get(KIND)
    if kind == SENTENCEPIECE or metadata.get("tokenizer.ggml.model") == "llama":
        return _with_json({"seperator": "eos"}, metadata, two_separators=True) | {UNIGRAM: True}
    if kind == BPE:
        roles = {"bos": "cls", "eos": "sep", "seperator": "sep"}
        return _with_json(roles, metadata, two_separators=pads_positions)
    facts: Facts = {"tokenizer.ggml.model": "bert"}
    if architecture == "mpnet":
        facts |= {f"tokenizer.ggml.{role}_token_id": token for role, token in _MPNET_IDS.items()}
        return facts | {"tokenizer.ggml.add_eos_token": True, RAW_VOCABULARY: True}
    facts |= _ids({"bos": "cls", "seperator": "sep"}, metadata) | _ids({"seperator": "separator"}, metadata)
    return facts | ({RAW_VOCABULARY: True} if kind == WORDPIECE else {})


def _with_json(roles: Mapping[str, str], metadata: Mapping[str, object], *, two_separators: bool) -> Facts:
    """Facts of a tokenizer whose tokenizer.json is made, see `made_tokenizer.py`."""
    facts: Facts = {"tokenizer.ggml.model": "huggingface", "tokenizer.ggml.add_sep_token": two_separators}
    return facts | {f"tokenizer.ggml.add_{role}_token": True for role in ("bos", "eos")} | _ids(roles, metadata)


def _ids(roles: Mapping[str, str], metadata: Mapping[str, object]) -> Facts:
    """`roles`: our name → theirs."""
    found = {role: metadata.get(f"tokenizer.ggml.{theirs}_token_id") for role, theirs in roles.items()}
    return {f"tokenizer.ggml.{role}_token_id": token for role, token in found.items() if isinstance(token, int)}
