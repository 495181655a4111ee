"""The contract of what embeds a job's texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import pyarrow as pa

from gguf_embed.types import DENSE, FloatMatrix, Span


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What a manifest says about the model."""

    name: str
    fingerprint: str  # "sha256:…" of the file; "": unknown
    dimensions: int  # of dense vectors; 0: there are none
    pooling: str  # "": unknown
    normalized: bool
    prompt: str  # put before each text
    max_tokens: int | None  # the longest text; None: unknown
    vectors: tuple[str, ...] = (DENSE,)  # the kinds that each text gets
    multivector_dimensions: int = 0
    n_vocab: int = 0  # entries that a sparse vector may have
    idf: bool = False  # sparse weights are to be multiplied by the inverse document frequency, as BM25's


@dataclass(frozen=True, slots=True)
class Embedded:
    """The vectors of some texts. Rows of `failures` are zeros."""

    vectors: FloatMatrix  # float32[n_texts, n_dims]
    failures: Mapping[int, str] = field(default_factory=dict)  # index of the text → why, in words
    n_tokens: int = 0
    columns: Mapping[str, pa.Array] = field(default_factory=dict)  # "sparse" and "multivector", a row per text


class EmbedPool(Protocol):
    """Embeds texts, several batches at once. Thread-safe."""

    facts: ModelFacts
    n_at_once: int  # how many calls of `embed` keep it busy
    batch_texts: int  # how many texts one call should have

    def embed(self, texts: Sequence[str]) -> Embedded:
        """One row per text. A text that cannot be embedded is a failure and ends nothing.

        Raises `EmbedError` if nothing can be embedded any more: the endpoint is gone, the key is wrong.
        """
        ...

    def n_computed(self) -> tuple[int, int] | None:
        """How many texts and tokens so far, also in calls that run; None: known only from calls that have ended."""
        ...

    def token_offsets(self, text: str) -> Sequence[Span | None] | None:
        """Of the text's own tokens, in order; None if this pool cannot tokenize."""
        ...

    def close(self) -> None: ...
