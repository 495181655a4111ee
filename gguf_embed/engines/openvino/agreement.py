"""How near BF16's results are to float32's, on real texts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gguf_embed.engines.base import ContextSpec, EngineInfo
from gguf_embed.engines.openvino.engine import OpenVinoEngine
from gguf_embed.types import SCORES, FloatMatrix, OutputSpec, Pooling

MIN_COSINE_TO_FULL = 0.99995
"""Of every sample, so that all other texts keep 0.9999: the worst of 200 was twice as far off as the worst sample."""

MIN_COSINE_IN_BATCH = 0.99999
MAX_SCORE_DIFFERENCE = 0.01
"""Scores may differ by this much of themselves, or absolutely if they are below 1."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """How near the results of BF16 are to float32's, and those in a batch to those alone: the worst of the samples."""

    cosine_to_full: float
    cosine_in_batch: float
    score_difference: float = 0.0  # relative for scores over 1; 0 without a rank head
    mean_deviation: float = 0.0  # of all samples from float32, as a multiple of what the worst one may have

    @property
    def is_good(self) -> bool:
        return (
            self.cosine_to_full >= MIN_COSINE_TO_FULL
            and self.cosine_in_batch >= MIN_COSINE_IN_BATCH
            and self.score_difference <= MAX_SCORE_DIFFERENCE
        )

    def __str__(self) -> str:
        scores = f", scores differ by up to {self.score_difference:.4f}" if self.score_difference else ""
        return f"cosine {self.cosine_to_full:.6f} to float32, {self.cosine_in_batch:.7f} alone to in a batch{scores}"


@dataclass(frozen=True, slots=True)
class FullResults:
    """What float32 computes of the samples, each alone."""

    samples: Sequence[Sequence[int]]
    output: OutputSpec
    rows: FloatMatrix  # of the samples
    scored: Sequence[Sequence[int]]  # texts and pairs; none without a rank head
    scores: FloatMatrix | None  # of `scored`

    @classmethod
    def of(cls, full: OpenVinoEngine, samples: Sequence[Sequence[int]], output: OutputSpec) -> FullResults:
        """Token rows are compared as means, unless scores are made of single ones. With a rank head, scores are
        compared, too, whatever the output: the model may be asked for them as well."""
        pooled = output if output.pooling is not None or output.for_scores else OutputSpec.of(Pooling.MEAN)
        scored = [*samples, *sample_pairs(samples, full.info)] if full.info.n_cls_out else []
        scores = _each_alone(full, scored, OutputSpec(SCORES)) if scored else None
        return cls(samples, pooled, _each_alone(full, samples, pooled), scored, scores)


def compare(full: FullResults, reduced: OpenVinoEngine) -> Agreement:
    """Compute the samples in BF16, alone and in one batch."""
    alone = _each_alone(reduced, full.samples, full.output)
    together = _vectors(reduced, [full.samples], full.output)
    to_full, in_batch = cosines(full.rows, alone), cosines(alone, together)
    differences = _score_differences(full, reduced)
    deviation = mean_deviation(to_full, differences)
    return Agreement(float(to_full.min()), float(in_batch.min()), float(differences.max()), deviation)


def mean_deviation(cosines_to_full: np.ndarray, score_differences: np.ndarray) -> float:
    """`Agreement.mean_deviation`: the larger of the two means; infinite if one is not a number."""
    parts = (
        float((1 - cosines_to_full).mean()) / (1 - MIN_COSINE_TO_FULL),
        float(score_differences.mean()) / MAX_SCORE_DIFFERENCE,
    )
    return math.inf if any(map(math.isnan, parts)) else max(parts)


def sample_pairs(samples: Sequence[Sequence[int]], info: EngineInfo) -> list[list[int]]:
    """Pairs of a query and a document as one sequence, with second token types where the model has them.

    Each sample of the first half is a query, each of the second half a document.
    """
    second = info.n_vocab if info.has_second_text else 0
    middle = len(samples) // 2
    pairs = zip(samples[:middle], samples[-middle:], strict=True) if middle else ()
    return [[*query, *(token + second for token in document[1:])][: info.n_ctx_train] for query, document in pairs]


def _score_differences(full: FullResults, reduced: OpenVinoEngine) -> np.ndarray:
    """The larger one of BF16's scores, alone and in one batch, from float32's and from each other, for each text; one 0
    without a rank head."""
    if full.scores is None:
        return np.zeros(1)
    output = OutputSpec(SCORES)
    alone, together = _each_alone(reduced, full.scored, output), _vectors(reduced, [full.scored], output)
    first, second = np.stack([full.scores, full.scores, alone]), np.stack([alone, together, together])
    differences: np.ndarray = (np.abs(first - second) / np.maximum(1, np.abs(first))).max(axis=(0, 2))
    return differences


def cosines(a: FloatMatrix, b: FloatMatrix) -> np.ndarray:
    """Of the rows, float64[rows]."""
    x, y = a.astype(np.float64), b.astype(np.float64)
    lengths = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
    products: np.ndarray = (x * y).sum(axis=1) / np.maximum(lengths, np.finfo(np.float64).tiny)
    return products


def _each_alone(engine: OpenVinoEngine, texts: Sequence[Sequence[int]], output: OutputSpec) -> FloatMatrix:
    return _vectors(engine, [[text] for text in texts], output)


def _vectors(engine: OpenVinoEngine, batches: Sequence[Sequence[Sequence[int]]], output: OutputSpec) -> FloatMatrix:
    n_tokens = max(len(batch) * max(map(len, batch)) for batch in batches)
    context = engine.open_context(ContextSpec(output, n_tokens, max(map(len, batches))))
    try:
        found: FloatMatrix = np.concatenate([context.embed(batch, 1).matrix for batch in batches])
        return found
    finally:
        context.close()
