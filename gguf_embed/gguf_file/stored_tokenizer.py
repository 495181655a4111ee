"""A tokenizer.json that is stored in a GGUF: the original tokenizer, for models that llama.cpp does not run anyway."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from gguf_embed.errors import ModelFileError
from gguf_embed.gguf_file.crisp_layout import CRISP_LAYOUT
from gguf_embed.gguf_file.crisp_tokenizer import MERGE_TENSORS, MERGES_AT, MERGES_BYTES, UNIGRAM
from gguf_embed.gguf_file.header import GgufHeader
from gguf_embed.gguf_file.layout import read_number_arrays
from gguf_embed.gguf_file.made_tokenizer import Ids, bpe_json, split_merges, unigram_json
from gguf_embed.gguf_file.static_format import (
    ARCHITECTURE,
    HUGGINGFACE_TOKENIZER,
    TOKENIZER_JSON,
    TOKENIZER_KIND,
    TOKENS,
)
from gguf_embed.gguf_file.strings import read_strings
from gguf_embed.gguf_file.vocabulary import composes
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
    is_crisp = header.get(CRISP_LAYOUT, bool)
    if not (source or is_crisp) or not entries:
        missing = TOKENS if source or is_crisp else TOKENIZER_JSON
        raise _cannot_read(header, f"{missing} is missing")
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
    """Of CrispEmbed's entries with scores or merges. Raises `ModelFileError` if a part is missing."""
    if not header.get(UNIGRAM, bool):
        separators = 2 if header.get("tokenizer.ggml.add_sep_token", bool) else 1
        is_composing = composes(None, header.architecture)
        return bpe_json(entries, _merges(header), ids, composes=is_composing, separators=separators)
    if ids["unk"] is None:
        raise _cannot_read(header, "tokenizer.ggml.unknown_token_id is missing")
    scores: Sequence[float] = [*map(float, read_number_arrays(header, (_SCORES,)).get(_SCORES, ()))]
    if len(scores) != len(entries):
        raise _cannot_read(header, f"{_SCORES} has {len(scores)} numbers for {len(entries)} entries")
    return unigram_json(entries, scores, ids)


def _merges(header: GgufHeader) -> Sequence[str]:
    offset, size = header.get(MERGES_AT, int), header.get(MERGES_BYTES, int)
    if offset is None or size is None:
        raise _cannot_read(header, f"{MERGE_TENSORS[-1]} is missing")
    try:
        with header.path.open("rb") as file:
            file.seek(header.data_start + offset)
            return split_merges(file.read(size))
    except OSError as error:
        raise ModelFileError(f"{header.path} cannot be read again: {error.strerror or error}") from error


def _cannot_read(header: GgufHeader, problem: str) -> ModelFileError:
    return ModelFileError(f"{header.path}: {problem}, so it cannot read text; convert the model again")
