"""Everything the checks look at, read from the file once. The checks themselves read no file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gguf_embed.doctor.effective_special_tokens import EffectiveSpecialTokens, effective_special_tokens
from gguf_embed.doctor.known import Expected, expected_of
from gguf_embed.gguf_file.constants import ARRAY, STRING, VOCABULARY_TYPES, VocabularyType
from gguf_embed.gguf_file.header import GgufHeader, TensorInfo
from gguf_embed.gguf_file.layout import Layout, MetadataEntry, read_layout, read_numbers
from gguf_embed.gguf_file.stored_tokenizer import has_stored_tokenizer
from gguf_embed.gguf_file.strings import read_strings
from gguf_embed.model_store.catalog import Catalog, CatalogRow
from gguf_embed.model_store.names import model_stem

TOKENS = "tokenizer.ggml.tokens"
TOKEN_TYPES = "tokenizer.ggml.token_type"
SCORES = "tokenizer.ggml.scores"
MERGES = "tokenizer.ggml.merges"


@dataclass(frozen=True, slots=True)
class StoredVocabulary:
    """The vocabulary as the file stores it, and the special tokens that llama.cpp derives from it."""

    kind: str  # "wpm", "bpe", "spm", "ugm"…; "unknown" for a tokenizer.ggml.model that llama.cpp does not know
    pre: str  # tokenizer.ggml.pre; "" when missing
    tokens: tuple[str, ...]
    types: NDArray[np.generic] | None  # of each token; None if missing
    special_tokens: EffectiveSpecialTokens


@dataclass(frozen=True, slots=True)
class Evidence:
    """One model file. For a split model `header` is that of the first part, `tensors` are those of all parts."""

    header: GgufHeader
    tensors: Mapping[str, TensorInfo]
    entries: Mapping[str, MetadataEntry]  # position and type of each metadata entry
    vocabulary: StoredVocabulary
    expected: Expected
    names: tuple[str, ...]  # the file's names for the model, general.name first

    @property
    def architecture(self) -> str:
        return self.header.architecture

    def key(self, name: str) -> str:
        """The architecture's key: "pooling_type" → "bert.pooling_type"."""
        return f"{self.header.architecture}.{name}"

    def length(self, key: str) -> int | None:
        """Number of items of an array; None if it is missing."""
        return self.header.array_lengths.get(key)

    def rows(self, tensor: str) -> int | None:
        """Number of rows of a matrix; None if there is no such matrix."""
        found = self.tensors.get(tensor)
        return found.shape[1] if found is not None and len(found.shape) == 2 else None


def gather(header: GgufHeader, further: tuple[GgufHeader, ...], catalog: Catalog) -> Evidence:
    """Read the vocabulary and look up the model; `further` are the other parts. Raises `ModelFileError`."""
    layout = read_layout(header)
    names = _names(header)
    general_name = header.get("general.name", str)
    row = catalog.for_file(general_name, model_stem(header.path.name), None)
    tensors = dict(header.tensors)
    for part in further:
        tensors.update(part.tensors)
    return Evidence(
        header,
        tensors,
        layout.entries,
        _read_vocabulary(header, layout),
        expected_of(names, header.architecture, row),
        tuple(name for _, name in names if name),
    )


def gather_header(header: GgufHeader, row: CatalogRow | None) -> Evidence:
    """The same without reading the file again: the vocabulary has its length only, and entries have no types."""
    kind, pre = _family(header)
    special_tokens = effective_special_tokens(kind, pre, header.array_lengths.get(TOKENS, 0), header.metadata)
    names = _names(header)
    return Evidence(
        header,
        header.tensors,
        {},
        StoredVocabulary(kind, pre, (), None, special_tokens),
        expected_of(names, header.architecture, row),
        tuple(name for _, name in names if name),
    )


def _family(header: GgufHeader) -> tuple[str, str]:
    """The tokenizer's family and its rules for splitting; "none" if the file has the original tokenizer itself."""
    if has_stored_tokenizer(header):
        return VocabularyType.NONE.kind, ""
    family = VOCABULARY_TYPES.get(header.get("tokenizer.ggml.model", str) or "")
    return "unknown" if family is None else family.kind, header.get("tokenizer.ggml.pre", str) or ""


def _names(header: GgufHeader) -> tuple[tuple[str, str], ...]:
    keys = ("general.name", "general.basename", "general.finetune")
    declared = [(key, header.get(key, str) or "") for key in keys]
    return (*declared, ("the file's name", model_stem(header.path.name)))


def _read_vocabulary(header: GgufHeader, layout: Layout) -> StoredVocabulary:
    kind, pre = _family(header)
    tokens = _read_tokens(header.path, layout.entries.get(TOKENS))
    types = layout.entries.get(TOKEN_TYPES)
    return StoredVocabulary(
        kind,
        pre,
        tokens,
        read_numbers(header.path, types) if types is not None and types.item_type != STRING else None,
        effective_special_tokens(kind, pre, len(tokens), header.metadata),
    )


def _read_tokens(path: Path, entry: MetadataEntry | None) -> tuple[str, ...]:
    """Bytes that are not UTF-8 become lone surrogates, so that different tokens stay different."""
    if entry is None or entry.type != ARRAY or entry.item_type != STRING:
        return ()
    return tuple(read_strings(path, TOKENS, errors="surrogateescape"))
