"""Embeds a job's texts with a model in this process."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gguf_embed.embedder.embedder import Embedder
from gguf_embed.embedder.methods import EmbedOptions
from gguf_embed.embedder.words import reason
from gguf_embed.ingest.pool.base import Embedded, ModelFacts
from gguf_embed.types import Span
from gguf_embed.vectors import Rows

N_AT_ONCE = 3
BATCH_TEXTS = 256


class LocalPool:
    """Implements `EmbedPool`. It owns the embedder: `close` closes both."""

    n_at_once = N_AT_ONCE
    batch_texts = BATCH_TEXTS

    def __init__(
        self,
        embedder: Embedder,
        *,
        prompt: str | None = "document",
        dimensions: int | None = None,
        truncate: bool = False,
    ) -> None:
        """`prompt`, `dimensions` and `truncate` are those of `Embedder.embed`. Reads the model's file once."""
        model, prompt_text = embedder.details, embedder.prompt_text(prompt)
        self._embedder = embedder
        self._options = EmbedOptions(prompt, dimensions, None, truncate)
        self.facts = ModelFacts(
            name=model.name,
            fingerprint=embedder.info.fingerprint,
            dimensions=dimensions or model.n_embd,
            pooling=model.pooling.value,
            normalized=model.embd_normalize == 2,
            prompt=prompt_text,
            max_tokens=model.max_input_tokens,
        )

    def embed(self, texts: Sequence[str]) -> Embedded:
        vectors = np.zeros((len(texts), self.facts.dimensions), np.float32)
        if not texts:
            return Embedded(vectors)
        result = self._embedder.embed_or_skip(texts, self._options)
        failures = {failure.index: reason(failure.error) for failure in result.failures}
        assert isinstance(result.output, Rows), "dense output was checked"
        if not failures:
            return Embedded(result.output.matrix, {}, result.usage.prompt_tokens)
        kept = [index for index in range(len(texts)) if index not in failures]
        vectors[kept] = result.output.matrix.reshape(len(kept), self.facts.dimensions)
        return Embedded(vectors, failures, result.usage.prompt_tokens)

    def token_offsets(self, text: str) -> Sequence[Span | None]:
        return self._embedder.token_offsets(text)

    def close(self) -> None:
        self._embedder.close()
