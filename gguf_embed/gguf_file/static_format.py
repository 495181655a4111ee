"""The GGUF form of static models: its architecture, keys and tensors. docs/static-models.md describes them."""

from __future__ import annotations

from typing import Final

ARCHITECTURE: Final = "static-embedding"

KIND: Final = "static-embedding.kind"
"""Where the model comes from: "model2vec", "sentence-transformers" or "word-table"."""

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
"""A row of numbers per token, or per cluster of tokens where there is a mapping."""

WEIGHTS: Final = "token_weight"
"""Optional, F32: what a token's row is multiplied by."""

MAPPING: Final = "token_mapping"
"""Optional, I32: which row of the table is a token's."""

CONTEXT_LENGTH: Final = 65_536
"""Tokens in one text. The models have no limit of their own: this one bounds what one text may take of memory."""
