"""Chooses precision, streams and batch size by measuring them, once per file and machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np

from gguf_embed.engines.base import BatchLimits, ContextSpec, EngineInfo
from gguf_embed.engines.openvino.engine import MAX_SEQUENCES, OpenVinoEngine
from gguf_embed.engines.openvino.runtime import FULL, REDUCED
from gguf_embed.engines.throughput import batch_lengths, best_rates, sample_batch, tokens_per_s
from gguf_embed.errors import EngineFailure
from gguf_embed.types import SCORES, FloatMatrix, OutputSpec, Pooling

BATCH_TOKENS = (128, 256, 512, 1024)  # numbers of rows that are computed as they are; memory is in proportion
MAX_BATCH_S = 0.25  # larger batches are not measured, because others wait for them
GOOD_ENOUGH = 0.98  # a smaller batch is taken if it is at least so fast, because others wait less for it
WORTH_ROUNDING = 1.2  # BF16 must be so much faster than float32
MEASURE_S = 0.06
N_ROUNDS = 3

MIN_COSINE_TO_FULL = 0.99995
"""Of every sample, so that all other texts keep 0.9999: the worst of 200 was twice as far off as the worst sample."""

MIN_COSINE_IN_BATCH = 0.99999
MAX_SCORE_DIFFERENCE = 0.01
"""Scores may differ by this much of themselves, or absolutely if they are below 1."""


@dataclass(frozen=True, slots=True)
class Choice:
    """How a model's batches are computed."""

    precision: str = FULL
    n_streams: int = 1  # batches computed at once, each with an equal share of the threads
    batch_tokens: int = 512
    tokens_per_s: float = 1000.0  # of all streams together
    kernel: str = ""  # that multiplies the matrices, by OpenVINO's name; "": not known
    agreement: str = ""  # how near BF16 is to float32, or why it does not work, in words; "": not checked
    measured: bool = False
    bf16_failed: bool = False  # perhaps for a reason that passes, which `agreement` says

    def with_streams(self, n_streams: int | None) -> Choice:
        """The same with a configured number of streams; None: as it is."""
        return self if n_streams is None else replace(self, n_streams=n_streams)

    def to_record(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_record(cls, record: Mapping[str, Any] | None) -> Choice | None:
        """None for a missing record, and for one with other fields or impossible values."""
        try:
            choice = cls(**record) if record is not None else None
            if choice is None or choice.precision not in (FULL, REDUCED):
                return None
            return choice if choice.n_streams >= 1 and choice.batch_tokens >= 1 and choice.tokens_per_s > 0 else None
        except TypeError:
            return None


@dataclass(frozen=True, slots=True)
class Agreement:
    """How near the results of BF16 are to float32's, and those in a batch to those alone: the worst of the samples."""

    cosine_to_full: float
    cosine_in_batch: float
    score_difference: float = 0.0  # relative for scores over 1; 0 without a rank head

    @property
    def is_good(self) -> bool:
        return (
            self.cosine_to_full >= MIN_COSINE_TO_FULL
            and self.cosine_in_batch >= MIN_COSINE_IN_BATCH
            and self.score_difference <= MAX_SCORE_DIFFERENCE
        )

    def __str__(self) -> str:
        return f"cosine {self.cosine_to_full:.6f} to float32, {self.cosine_in_batch:.7f} alone to in a batch"


Compile = Callable[[str, int], OpenVinoEngine]
"""Compiles the model in a precision, for so many streams."""


class _Engines:
    """Those that are compiled. What is decided against is closed at once, because each has its own packed matrices."""

    def __init__(self, compile_engine: Compile, drop: Callable[[str], None]) -> None:
        self._compile, self._drop = compile_engine, drop
        self._open: dict[tuple[str, int], OpenVinoEngine] = {}

    def get(self, precision: str, n_streams: int = 1) -> OpenVinoEngine:
        """The engine, compiled if it is not open."""
        engine = self._open.get((precision, n_streams))
        if engine is None:
            engine = self._open[precision, n_streams] = self._compile(precision, n_streams)
        return engine

    def keep(self, precision: str, n_streams: int = 1) -> None:
        """Close all others, and free the weights in the other precision."""
        for key in [key for key in self._open if key != (precision, n_streams)]:
            self._open.pop(key).close()
        self._drop(REDUCED if precision == FULL else FULL)

    def close(self) -> None:
        while self._open:
            self._open.popitem()[1].close()


def calibrate(
    compile_engine: Compile,
    samples: Sequence[Sequence[int]],
    output: OutputSpec,
    n_threads: int,
    precision: Literal["auto", "f32", "bf16"],
    *,
    drop: Callable[[str], None] = lambda precision: None,
) -> Choice:
    """Measure and choose. `samples` are valid texts as token ids. Takes about a second for a small model.

    With "auto", float32 and BF16 are compared: BF16 is chosen if it is faster and `Agreement.is_good`. `drop` is called
    with the precision that is decided against, when no engine uses its weights any more.
    """
    with closing(_Engines(compile_engine, drop)) as engines:
        chosen = _choose_precision(engines, samples, output, precision)
        engines.keep(chosen.precision)
        return _fastest(engines, chosen, n_threads, output)


def _choose_precision(
    engines: _Engines, samples: Sequence[Sequence[int]], output: OutputSpec, precision: str
) -> Choice:
    """The precision, how near BF16 is to float32, and whether BF16 failed; streams and sizes are not chosen yet."""
    if precision == FULL:
        return Choice(FULL)
    full = engines.get(FULL)
    try:
        reduced = engines.get(REDUCED)
        found = compare(full, reduced, samples, output)
        if precision == REDUCED or (found.is_good and _is_faster(reduced, full, output)):
            return Choice(REDUCED, agreement=str(found))
        return Choice(FULL, agreement=str(found))
    except EngineFailure as error:
        if precision == REDUCED:
            raise
        return Choice(FULL, agreement=error.message, bf16_failed=True)  # float32 still works


def _is_faster(one: OpenVinoEngine, other: OpenVinoEngine, output: OutputSpec) -> bool:
    n_tokens = BATCH_TOKENS[1]
    return _rate(one, n_tokens, 1, output) > WORTH_ROUNDING * _rate(other, n_tokens, 1, output)


def compare(
    full: OpenVinoEngine, reduced: OpenVinoEngine, samples: Sequence[Sequence[int]], output: OutputSpec
) -> Agreement:
    """Compute the samples in both precisions, and in BF16 also in one batch.

    Token rows are compared as means, unless scores are made of single ones. With a rank head, scores are compared, too,
    whatever the output: the model may be asked for them as well.
    """
    pooled = output if output.pooling is not None or output.for_scores else OutputSpec.of(Pooling.MEAN)
    alone = _vectors(reduced, [[text] for text in samples], pooled)
    together = _vectors(reduced, [samples], pooled)
    to_full = cosines(_vectors(full, [[text] for text in samples], pooled), alone)
    info = full.info
    scored = [*samples, *sample_pairs(samples, info)] if info.n_cls_out else []
    difference = _score_difference(full, reduced, scored) if scored else 0.0
    return Agreement(float(to_full.min()), float(cosines(alone, together).min()), difference)


def sample_pairs(samples: Sequence[Sequence[int]], info: EngineInfo) -> list[list[int]]:
    """Pairs of a query and a document as one sequence, with second token types where the model has them.

    Each sample of the first half is a query, each of the second half a document.
    """
    second = info.n_vocab if info.has_second_text else 0
    middle = len(samples) // 2
    pairs = zip(samples[:middle], samples[middle:], strict=False)
    return [[*query, *(token + second for token in document[1:])][: info.n_ctx_train] for query, document in pairs]


def _score_difference(full: OpenVinoEngine, reduced: OpenVinoEngine, texts: Sequence[Sequence[int]]) -> float:
    """The largest one of BF16's scores, alone and in one batch, from float32's and from each other."""
    output = OutputSpec(SCORES)
    exact, alone = (_vectors(engine, [[text] for text in texts], output) for engine in (full, reduced))
    together = _vectors(reduced, [texts], output)
    first, second = np.stack([exact, exact, alone]), np.stack([alone, together, together])
    return float((np.abs(first - second) / np.maximum(1, np.abs(first))).max())


def cosines(a: FloatMatrix, b: FloatMatrix) -> np.ndarray:
    """Of the rows, float64[rows]."""
    x, y = a.astype(np.float64), b.astype(np.float64)
    lengths = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
    products: np.ndarray = (x * y).sum(axis=1) / np.maximum(lengths, np.finfo(np.float64).tiny)
    return products


def _vectors(engine: OpenVinoEngine, batches: Sequence[Sequence[Sequence[int]]], output: OutputSpec) -> FloatMatrix:
    n_tokens = max(len(batch) * max(map(len, batch)) for batch in batches)
    context = engine.open_context(ContextSpec(output, n_tokens, max(map(len, batches))))
    try:
        found: FloatMatrix = np.concatenate([context.embed(batch, 1).matrix for batch in batches])
        return found
    finally:
        context.close()


def _fastest(engines: _Engines, chosen: Choice, n_threads: int, output: OutputSpec) -> Choice:
    """The same with the number of streams with the most tokens per second, and then the best batch size for it."""
    precision, smallest = chosen.precision, BATCH_TOKENS[0]
    tokens_per_s = _rate(engines.get(precision), smallest, 1, output)
    n_rounds = N_ROUNDS if smallest <= tokens_per_s * MAX_BATCH_S else 1
    size = sizes_in_time(BATCH_TOKENS[:2], tokens_per_s)[-1]
    counts = (1, *stream_counts(n_threads))
    by_streams = best_rates(lambda count: _rate(engines.get(precision, count), size, count, output), counts, n_rounds)
    n_streams = max(by_streams, key=by_streams.__getitem__)
    engines.keep(precision, n_streams)
    engine, sizes = engines.get(precision, n_streams), sizes_in_time(BATCH_TOKENS, by_streams[n_streams] / n_streams)
    by_size = best_rates(lambda n_tokens: _rate(engine, n_tokens, n_streams, output), sizes, n_rounds)
    n_tokens = smallest_good(by_size)
    return replace(
        chosen,
        n_streams=n_streams,
        batch_tokens=n_tokens,
        tokens_per_s=by_size[n_tokens],
        kernel=engine.kernel_name(),
        measured=True,
    )


def sizes_in_time(sizes: Sequence[int], stream_tokens_per_s: float) -> Sequence[int]:
    """The batches, by their tokens, that one stream computes in `MAX_BATCH_S`; always the smallest."""
    return [n_tokens for n_tokens in sizes if n_tokens <= stream_tokens_per_s * MAX_BATCH_S] or sizes[:1]


def stream_counts(n_threads: int) -> tuple[int, ...]:
    """The numbers of streams to try besides one: one per thread, and one per four threads."""
    return tuple(n for n in dict.fromkeys((n_threads // 4, n_threads)) if n > 1)


def smallest_good(rates: Mapping[int, float]) -> int:
    """The smallest batch that is nearly as fast as the fastest."""
    best = max(rates.values())
    return min(n for n, rate in rates.items() if rate >= GOOD_ENOUGH * best)


def _rate(engine: OpenVinoEngine, n_tokens: int, n_streams: int, output: OutputSpec) -> float:
    """Tokens per second with `n_streams` batches of up to `n_tokens` at once."""
    lengths = batch_lengths(BatchLimits(n_tokens, MAX_SEQUENCES), engine.info.n_ctx_train)
    batch = sample_batch(lengths, engine.info.n_vocab)
    spec = ContextSpec(output, sum(lengths), len(lengths))
    return tokens_per_s(lambda: engine.open_context(spec), batch, n_streams, 1, MEASURE_S)
