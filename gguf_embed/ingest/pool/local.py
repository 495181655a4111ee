"""Embeds a job's texts with a model in this process."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gguf_embed.embedder.embedder import Embedder
from gguf_embed.embedder.methods import EmbedOptions
from gguf_embed.embedder.words import reason
from gguf_embed.gguf_file.bm25_format import ARCHITECTURE as BM25
from gguf_embed.ingest.pool.base import Embedded, ModelFacts
from gguf_embed.ingest.pool.muvera_words import pooling_of
from gguf_embed.ingest.pool.vector_columns import vector_columns
from gguf_embed.types import DENSE, JOINT, MULTIVECTOR, MUVERA, SPARSE, Muvera, OutputSpec, Span
from gguf_embed.vectors import Rows
from gguf_embed.vectors.joint import JointOutput

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
        vectors: tuple[str, ...] = (DENSE,),
        muvera: Muvera | None = None,
    ) -> None:
        """`prompt`, `dimensions` and `truncate` are those of `Embedder.embed`. Reads the model's file once.

        `vectors`: the kinds of vectors for each text, all computed in one pass. `muvera`: dense vectors are made of
        multi-vectors with these settings. Raises `NotSupported` if the model cannot give one of them.
        """
        model, prompt_text = embedder.details, embedder.prompt_text(prompt)
        self._embedder = embedder
        self._options = EmbedOptions(prompt, dimensions, None, truncate, muvera)
        self._output = output_of(vectors, muvera)
        self.facts = ModelFacts(
            name=model.name,
            fingerprint=embedder.info.fingerprint,
            dimensions=(muvera.n_dims if muvera else dimensions or model.n_embd) if DENSE in vectors else 0,
            pooling=pooling_of(muvera) if muvera else model.pooling.value,
            normalized=model.embd_normalize == 2 and muvera is None,
            prompt=prompt_text,
            max_tokens=model.max_input_tokens,
            vectors=vectors,
            n_vocab=model.n_vocab if SPARSE in vectors else 0,
            idf=model.architecture == BM25,
            multivector_dimensions=self._multivector_width() if MULTIVECTOR in vectors else 0,
        )

    def _multivector_width(self) -> int:
        result = self._embedder.embed_or_skip(["width"], self._options, OutputSpec(MULTIVECTOR))
        assert isinstance(result.output, Rows)
        return int(result.output.matrix.shape[1])

    def embed(self, texts: Sequence[str]) -> Embedded:
        vectors = np.zeros((len(texts), self.facts.dimensions), np.float32)
        if not texts:
            return Embedded(vectors)
        result = self._embedder.embed_or_skip(texts, self._options, self._output)
        failures = {failure.index: reason(failure.error) for failure in result.failures}
        by_kind = (
            result.output.by_kind if isinstance(result.output, JointOutput) else {result.output.kind: result.output}
        )
        columns = vector_columns(by_kind, self.facts.multivector_dimensions)
        dense = by_kind.get(MUVERA if self._options.muvera else DENSE) if self.facts.dimensions else None
        if isinstance(dense, Rows) and not failures:
            vectors = dense.matrix
        elif isinstance(dense, Rows):
            kept = [index for index in range(len(texts)) if index not in failures]
            vectors[kept] = dense.matrix.reshape(len(kept), self.facts.dimensions)
        return Embedded(vectors, failures, result.usage.prompt_tokens, columns)

    def n_computed(self) -> tuple[int, int]:
        return self._embedder.n_computed()

    def token_offsets(self, text: str) -> Sequence[Span | None]:
        return self._embedder.token_offsets(text)

    def close(self) -> None:
        self._embedder.close()


def output_of(vectors: tuple[str, ...], muvera: Muvera | None = None) -> OutputSpec | None:
    """What to ask for to get these kinds of vectors; None: the model's dense vector."""
    if muvera is not None:
        vectors = tuple(MULTIVECTOR if kind == DENSE else kind for kind in vectors)
    if len(vectors) > 1:
        return OutputSpec(JOINT, parts=vectors)
    return None if vectors == (DENSE,) else OutputSpec(vectors[0])
