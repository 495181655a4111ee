"""A tokenizer.json that is stored in a GGUF: the original tokenizer, for models that llama.cpp does not run anyway."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from gguf_embed.errors import ModelFileError
from gguf_embed.gguf_file.crisp_tokenizer import MERGES_AT, MERGES_BYTES, UNIGRAM
from gguf_embed.gguf_file.header import GgufHeader
from gguf_embed.gguf_file.layout import read_layout, read_numbers
from gguf_embed.gguf_file.made_tokenizer import Ids, bpe_json, split_merges, unigram_json
from gguf_embed.gguf_file.static_format import (
    ARCHITECTURE,
    HUGGINGFACE_TOKENIZER,
    TOKENIZER_JSON,
    TOKENIZER_KIND,
    TOKENS,
)
from gguf_embed.gguf_file.strings import read_strings
from gguf_embed.types import Vocabulary

_SCORES: Final = "tokenizer.ggml.scores"

_ID_KEYS: Final = {"bos": "bos", "eos": "eos", "sep": "seperator", "unk": "unknown", "pad": "padding", "mask": "mask"}
"""Middle of the key `tokenizer.ggml.<name>_token_id`; "seperator" is how GGUF spells it."""


@dataclass(frozen=True, slots=True)
class StoredTokenizer:
    """The content of a tokenizer.json, and the vocabulary in the order of its ids."""

    source: str
    vocabulary: Vocabulary


def has_stored_tokenizer(header: GgufHeader) -> bool:
    """Whether the file's tokenizer is such a one. Static models have an engine that reads it."""
    return header.get(TOKENIZER_KIND, str) == HUGGINGFACE_TOKENIZER and header.architecture != ARCHITECTURE


def read_stored_tokenizer(header: GgufHeader) -> StoredTokenizer:
    """Takes 0.1 s for 250,000 entries. Raises `ModelFileError` if a part is missing, or an id is out of range."""
    source, entries = header.get(TOKENIZER_JSON, str), read_strings(header.path, TOKENS)
    is_made = header.get(UNIGRAM, bool) or MERGES_AT in header.metadata
    if not (source or is_made) or not entries:
        missing = TOKENS if source else TOKENIZER_JSON
        raise ModelFileError(f"{header.path}: {missing} is missing, so it cannot read text; convert the model again")
    ids = {role: header.get(f"tokenizer.ggml.{name}_token_id", int) for role, name in _ID_KEYS.items()}
    for role, token in ids.items():
        if token is not None and not 0 <= token < len(entries):
            raise ModelFileError(
                f"{header.path}: tokenizer.ggml.{_ID_KEYS[role]}_token_id is {token}, "
                f"expected 0 to {len(entries) - 1}; convert the model again"
            )
    flags = {name: header.get(f"tokenizer.ggml.add_{name}_token", bool) or False for name in ("bos", "eos", "sep")}
    vocabulary = Vocabulary(
        kind="none",
        entries=tuple(entries),
        bos_id=ids["bos"],
        eos_id=ids["eos"],
        sep_id=ids["sep"],
        unk_id=ids["unk"],
        pad_id=ids["pad"],
        mask_id=ids["mask"],
        adds_bos=flags["bos"],
        adds_eos=flags["eos"],
        adds_sep=flags["sep"],
    )
    return StoredTokenizer(source or _made(header, entries, ids), vocabulary)


def _made(header: GgufHeader, entries: Sequence[str], ids: Ids) -> str:
    """Raises `ModelFileError` if a part is missing."""
    if header.get(UNIGRAM, bool):
        if ids["unk"] is None:
            raise ModelFileError(
                f"{header.path}: tokenizer.ggml.unknown_token_id is missing, so it cannot read text; convert the model "
                "again"
            )
        return unigram_json(entries, _scores(header, len(entries)), ids)
    with header.path.open("rb") as file:
        file.seek(header.data_start + (header.get(MERGES_AT, int) or 0))
        merges = split_merges(file.read(header.get(MERGES_BYTES, int) or 0))
    separators = 2 if header.get("tokenizer.ggml.add_sep_token", bool) else 1
    is_modern = header.architecture == "modern-bert"
    return bpe_json(entries, merges, ids, composes=is_modern, separators=separators)


def _scores(header: GgufHeader, n_entries: int) -> Sequence[float]:
    entry = read_layout(header).entries.get(_SCORES)
    found: Sequence[float] = [] if entry is None else read_numbers(header.path, entry).tolist()
    if len(found) != n_entries:
        raise ModelFileError(
            f"{header.path}: {_SCORES} has {len(found)} numbers for {n_entries} entries, so it cannot read text; "
            "convert the model again"
        )
    return found
