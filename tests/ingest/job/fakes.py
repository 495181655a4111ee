"""A model for tests of jobs: vectors from a hash of the text, failures on request."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Sequence

import numpy as np

from gguf_embed.ingest.pool.base import Embedded, ModelFacts
from gguf_embed.types import FloatMatrix, Span

N_DIMS = 8
FACTS = ModelFacts(
    name="fake", fingerprint="sha256:fake", dimensions=N_DIMS, pooling="mean", normalized=True, prompt="", max_tokens=64
)


def vector_of(text: str) -> np.ndarray:
    numbers = np.frombuffer(hashlib.blake2b(text.encode(), digest_size=N_DIMS).digest(), np.uint8).astype(np.float32)
    vector: np.ndarray = (numbers + 1) / np.linalg.norm(numbers + 1)
    return vector


class FakePool:
    """Implements `EmbedPool`. A text with "unembeddable" in it is a failure."""

    n_at_once = 2

    def __init__(self, facts: ModelFacts = FACTS, *, batch_texts: int = 16, delay_s: float = 0.0) -> None:
        self.facts = facts
        self.batch_texts = batch_texts
        self.delay_s = delay_s
        self.texts: list[str] = []
        self.error: Exception | None = None

    def embed(self, texts: Sequence[str]) -> Embedded:
        if self.error is not None:
            raise self.error
        time.sleep(self.delay_s)
        self.texts += texts
        vectors: FloatMatrix = np.stack([self.vector(text) for text in texts])
        failures = {index: "is too long" for index, text in enumerate(texts) if "unembeddable" in text}
        return Embedded(vectors, failures, sum(len(text.split()) for text in texts))

    def vector(self, text: str) -> np.ndarray:
        return vector_of(self.facts.fingerprint + text)

    def n_computed(self) -> None:
        pass

    def token_offsets(self, text: str) -> list[Span | None]:
        return [match.span() for match in re.finditer(r"\S+", text)]

    def close(self) -> None:
        pass
