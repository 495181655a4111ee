"""Which special tokens llama.cpp will use: those the file declares, else the defaults of its tokenizer's family."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from gguf_embed.doctor.llama_facts import (
    ADDS_BOS_BY_PRE,
    ADDS_SEP_BY_PRE,
    DEFAULTS,
    FORCES_BOS_BY_PRE,
    VocabularyDefaults,
)
from gguf_embed.gguf_file.header import MetadataValue

ID_KEYS = {
    "bos": "tokenizer.ggml.bos_token_id",
    "eos": "tokenizer.ggml.eos_token_id",
    "unk": "tokenizer.ggml.unknown_token_id",
    "sep": "tokenizer.ggml.seperator_token_id",  # misspelled in the format itself
    "pad": "tokenizer.ggml.padding_token_id",
    "cls": "tokenizer.ggml.cls_token_id",
    "mask": "tokenizer.ggml.mask_token_id",
}
ADD_BOS = "tokenizer.ggml.add_bos_token"
ADD_EOS = "tokenizer.ggml.add_eos_token"
ADD_SEP = "tokenizer.ggml.add_sep_token"

TEXTS = {
    "bos": ("[CLS]", "<s>", "<bos>", "<|begin_of_text|>"),
    "eos": ("[SEP]", "</s>", "<eos>", "<|endoftext|>", "<|end_of_text|>"),
    "unk": ("[UNK]", "<unk>"),
    "sep": ("[SEP]", "</s>"),
    "pad": ("[PAD]", "<pad>"),
    "cls": ("[CLS]", "<s>"),
    "mask": ("[MASK]", "<mask>"),
}
"""How the token of each role is usually spelled, the most likely first."""


@dataclass(frozen=True, slots=True)
class EffectiveSpecialTokens:
    """What llama.cpp uses once it has read the file. None: no such token."""

    ids: Mapping[str, int | None] = field(default_factory=dict)  # by role
    adds_bos: bool = False
    adds_eos: bool = False
    adds_sep: bool = False


def effective_special_tokens(
    kind: str, pre: str, n_tokens: int, metadata: Mapping[str, MetadataValue]
) -> EffectiveSpecialTokens:
    """Apply llama.cpp's rules: an id outside the vocabulary is ignored, whether declared or a default.

    llama.cpp never reads "cls": [CLS] is its BOS.
    """
    defaults = defaults_of(kind, pre)
    ids: dict[str, int | None] = {}
    for role in ("bos", "eos", "unk", "sep", "pad", "mask"):
        default: int | None = getattr(defaults, role)
        declared = number(metadata, ID_KEYS[role])
        known = [value for value in (declared, default) if value is not None and 0 <= value < n_tokens]
        ids[role] = known[0] if known else None
    return EffectiveSpecialTokens(
        ids,
        adds_bos=_flag(metadata, ADD_BOS, defaults.adds_bos) or pre in FORCES_BOS_BY_PRE,
        adds_eos=_flag(metadata, ADD_EOS, defaults.adds_eos),
        adds_sep=_flag(metadata, ADD_SEP, defaults.adds_sep),
    )


def defaults_of(kind: str, pre: str) -> VocabularyDefaults:
    """The family's defaults; some BPE pre-tokenizers have their own flags."""
    defaults = DEFAULTS.get(kind, VocabularyDefaults())
    if kind != "bpe":
        return defaults
    return replace(defaults, adds_bos=pre in ADDS_BOS_BY_PRE, adds_sep=pre in ADDS_SEP_BY_PRE)


def number(metadata: Mapping[str, MetadataValue], key: str) -> int | None:
    """A whole number; None when it is missing or of another type."""
    value = metadata.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _flag(metadata: Mapping[str, MetadataValue], key: str, default: bool) -> bool:
    value = metadata.get(key)
    return value if isinstance(value, bool) else default
