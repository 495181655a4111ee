"""Specs of contexts by llama.cpp's words, for tests of any engine."""

from __future__ import annotations

from gguf_embed.engines.llama.context import LlamaContextSpec
from gguf_embed.types import OutputSpec, Pooling


def context_spec(
    pooling: Pooling, max_tokens: int, max_sequences: int, flash_attention: bool = True
) -> LlamaContextSpec:
    return LlamaContextSpec(OutputSpec.of(pooling), max_tokens, max_sequences, flash_attention)
