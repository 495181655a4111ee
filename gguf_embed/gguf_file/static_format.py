"""The GGUF format of static models: architecture, keys and tensors, as in docs/static-models.md."""

from __future__ import annotations

from typing import Final

ARCHITECTURE: Final = "static-embedding"

KIND: Final = "static-embedding.kind"
"""The kind of the original: "model2vec", "sentence-transformers" or "word-table"."""

NORMALIZE: Final = "static-embedding.normalize"
SKIP_UNKNOWN: Final = "static-embedding.skip_unknown"
TOKENIZER_KIND: Final = "tokenizer.ggml.model"
TOKENIZER_JSON: Final = "tokenizer.huggingface.json"
TOKENS: Final = "tokenizer.ggml.tokens"
UNKNOWN_ID: Final = "tokenizer.ggml.unknown_token_id"
LOWERCASE: Final = "tokenizer.ggml.normalizer.lowercase"

HUGGINGFACE_TOKENIZER: Final = "huggingface"
WORD_TOKENIZER: Final = "words"

TABLE: Final = "token_embd.weight"
"""One row per token, or per cluster of tokens if there is a mapping."""

WEIGHTS: Final = "token_weight"
"""Optional, F32: the factor for each token's row."""

MAPPING: Final = "token_mapping"
"""Optional, I32: the index of each token's row in the table."""

CONTEXT_LENGTH: Final = 65_536
"""Tokens in one text. The models themselves have no limit; this one bounds the memory for one text."""
