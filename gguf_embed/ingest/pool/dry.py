"""Stands in for a model where nothing is to be embedded: `ingest --dry-run`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gguf_embed.ingest.pool.base import Embedded, EmbedPool
from gguf_embed.types import Span


class DryPool:
    """Implements `EmbedPool`: the facts and tokens of a model, and vectors of zeros."""

    n_at_once = 1

    def __init__(self, pool: EmbedPool) -> None:
        self._pool = pool
        self.facts = pool.facts
        self.batch_texts = pool.batch_texts

    def embed(self, texts: Sequence[str]) -> Embedded:
        n_tokens = sum(len(self._pool.token_offsets(text) or ()) for text in texts)
        return Embedded(np.zeros((len(texts), self.facts.dimensions), np.float32), {}, n_tokens)

    def n_computed(self) -> None:
        """Known only from calls that have ended."""

    def token_offsets(self, text: str) -> Sequence[Span | None] | None:
        return self._pool.token_offsets(text)

    def close(self) -> None:
        """The model is closed by its owner."""
