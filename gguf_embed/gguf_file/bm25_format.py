"""The GGUF format of BM25: no network, only what turns words into ids. `token_heads.py` has the weights' parameters.

general.architecture        string     "bm25"
bm25.context_length         uint32     words in one text
bm25.language               string     of the Snowball stemmer: "english"
bm25.longest_word           uint32     longer words are left out
tokenizer.ggml.model        string     "bm25"
tokenizer.ggml.tokens       string[]   words that are left out: stop words
bm25.factors                F32[3]     a tensor: k, b, and the average length of a document in words
"""

from __future__ import annotations

from typing import Final

from gguf_embed.gguf_file.static_format import ARCHITECTURE as STATIC

ARCHITECTURE: Final = "bm25"
LANGUAGE: Final = "bm25.language"
LONGEST_WORD: Final = "bm25.longest_word"
FACTORS: Final = "bm25.factors"
STOP_WORDS: Final = "tokenizer.ggml.tokens"

CONTEXT_LENGTH: Final = 65_536
"""Words in one text; a limit on memory only."""

N_IDS: Final = 2**31
"""A word's id is a hash, from 0 to this."""

WITHOUT_NETWORK: Final = (STATIC, ARCHITECTURE)
"""Architectures of our own engines for numpy, which check what they read."""
