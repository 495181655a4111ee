"""LFM2-ColBERT and LFM2.5-ColBERT as llama.cpp's converter writes them.

llama.cpp computes the projection itself (the tensor `dense_2`), so the token rows are what MaxSim compares. How queries
and documents are read is not in these files; here it is as in `config_sentence_transformers.json` of the originals.
"""

from __future__ import annotations

import string

from gguf_embed.gguf_file.facts import pooling_type
from gguf_embed.gguf_file.head_source import HeadSource
from gguf_embed.gguf_file.header import GgufHeader
from gguf_embed.gguf_file.strings import read_strings
from gguf_embed.types import Pooling

QUERY_PREFIX, DOCUMENT_PREFIX = "[Q] ", "[D] "
QUERY_LENGTH, DOCUMENT_LENGTH = 32, 512

_DIMENSIONS = "lfm2.embedding_length_out"


def is_lfm2_colbert(header: GgufHeader) -> bool:
    """Whether it has a projection, and no pooling after it. Raises `ModelFileError` for an unknown pooling."""
    has_projection = _DIMENSIONS in header.metadata and "dense_2.weight" in header.tensors
    return header.architecture == "lfm2" and has_projection and pooling_type(header) in (None, Pooling.NONE)


def n_dimensions(source: HeadSource, largest: int) -> int:
    return source.size(_DIMENSIONS, largest) or 0


def ids_of(header: GgufHeader) -> dict[str, int]:
    """The ids of the prefixes and of punctuation, by their texts, as far as the vocabulary has them."""
    wanted = {QUERY_PREFIX, DOCUMENT_PREFIX, *string.punctuation}
    entries = read_strings(header.path, "tokenizer.ggml.tokens")
    return {entry: token for token, entry in enumerate(entries) if entry in wanted}
