"""Chooses precision, streams and batch size by measuring them, once per file and machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, Protocol

from gguf_embed.engines.base import BatchLimits, ContextSpec
from gguf_embed.engines.openvino.agreement import FullResults, compare
from gguf_embed.engines.openvino.engine import MAX_SEQUENCES, OpenVinoEngine
from gguf_embed.engines.openvino.mixed_precision import Layers, fewest_layers, kept_in_words, type_of_weights
from gguf_embed.engines.openvino.runtime import FULL, REDUCED
from gguf_embed.engines.throughput import batch_lengths, best_rates, sample_batch, tokens_per_s
from gguf_embed.errors import EngineFailure
from gguf_embed.types import OutputSpec

BATCH_TOKENS = (128, 256, 512, 1024)  # numbers of rows that are computed as they are; memory is in proportion
MAX_BATCH_S = 0.25  # larger batches are not measured, because others wait for them
GOOD_ENOUGH = 0.98  # a smaller batch is taken if it is at least so fast, because others wait less for it
WORTH_ROUNDING = 1.2  # BF16 must be so much faster than float32
MEASURE_S = 0.06
N_ROUNDS = 3
MAX_ROUNDS_S = 1.0  # after which two precisions are not compared once more


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
    float32_layers: Layers = ()  # with BF16, those whose matrices are multiplied in float32 all the same

    @property
    def weights_type(self) -> str:
        return type_of_weights(self.precision, self.float32_layers)

    @property
    def details(self) -> tuple[str, ...]:
        """What the check of BF16 found, if there was one."""
        if not self.agreement:
            return ()
        if self.precision == FULL:
            return (f"BF16 not used: {self.agreement}",)
        return (f"BF16 used: {self.agreement}{kept_in_words(self.float32_layers)}",)

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
            if not isinstance(choice.float32_layers, list | tuple):
                return None
            choice = replace(choice, float32_layers=tuple(map(int, choice.float32_layers)))
            return choice if choice.n_streams >= 1 and choice.batch_tokens >= 1 and choice.tokens_per_s > 0 else None
        except (TypeError, ValueError):
            return None


class Builder(Protocol):
    """What compiles one model in several ways."""

    @property
    def n_layer(self) -> int: ...

    def compile(self, precision: str, n_streams: int, float32_layers: Layers) -> OpenVinoEngine:
        """For so many batches at once. The layers are those that keep float32 with BF16."""

    def drop(self, precision: str) -> None:
        """Free the weights for a precision that was decided against, which no engine uses any more."""


class _Engines:
    """Those that are compiled. What is decided against is closed at once, because each has its own packed matrices."""

    def __init__(self, builder: Builder) -> None:
        self._builder = builder
        self._open: dict[tuple[str, int, Layers], OpenVinoEngine] = {}

    def get(self, precision: str, n_streams: int = 1, float32_layers: Layers = ()) -> OpenVinoEngine:
        """The engine, compiled if it is not open. There is one selection of layers at a time: others are closed."""
        engine = self._open.get((precision, n_streams, float32_layers))
        if engine is None:
            if any(kind == precision and layers != float32_layers for kind, _, layers in self._open):
                self._forget(precision)
            engine = self._open[precision, n_streams, float32_layers] = self._builder.compile(
                precision, n_streams, float32_layers
            )
        return engine

    def keep(self, precision: str, n_streams: int, float32_layers: Layers) -> None:
        """Close all others, and free the weights in the other precision."""
        self._forget(REDUCED if precision == FULL else FULL)
        for key in [key for key in self._open if key != (precision, n_streams, float32_layers)]:
            self._open.pop(key).close()

    def _forget(self, precision: str) -> None:
        for key in [key for key in self._open if key[0] == precision]:
            self._open.pop(key).close()
        self._builder.drop(precision)

    def close(self) -> None:
        while self._open:
            self._open.popitem()[1].close()


def calibrate(
    builder: Builder,
    samples: Sequence[Sequence[int]],
    output: OutputSpec,
    n_threads: int,
    precision: Literal["auto", "f32", "bf16"],
) -> Choice:
    """Measure and choose. `samples` are valid texts as token ids. Takes about a second for a small model.

    With "auto", float32 and BF16 are compared: BF16 is chosen if it is faster and `Agreement.is_good`, with some layers
    in float32 if it is not good without.
    """
    with closing(_Engines(builder)) as engines:
        chosen = _choose_precision(engines, samples, output, precision, builder.n_layer)
        engines.keep(chosen.precision, 1, chosen.float32_layers)
        return _fastest(engines, chosen, n_threads, output)


def _choose_precision(
    engines: _Engines, samples: Sequence[Sequence[int]], output: OutputSpec, precision: str, n_layer: int
) -> Choice:
    """The precision, how near BF16 is to float32, and whether BF16 failed; streams and sizes are not chosen yet."""
    if precision == FULL:
        return Choice(FULL)
    full = engines.get(FULL)
    try:
        results = FullResults.of(full, samples, output)
        found = compare(results, engines.get(REDUCED))
        if precision == REDUCED:
            return Choice(REDUCED, agreement=str(found))
        layers: Layers = ()
        if not found.is_good:
            mixed = fewest_layers(n_layer, lambda layers: compare(results, engines.get(REDUCED, 1, layers)))
            if mixed is None:
                return Choice(FULL, agreement=str(found))
            layers, found = mixed
        if not _is_faster(engines.get(REDUCED, 1, layers), full, output):
            found_in_words = f"{found}{kept_in_words(layers)}"
            return Choice(FULL, agreement=f"{found_in_words}, but it is not {WORTH_ROUNDING} times as fast")
        return Choice(REDUCED, agreement=str(found), float32_layers=layers)
    except EngineFailure as error:
        if precision == REDUCED:
            raise
        return Choice(FULL, agreement=error.message, bf16_failed=True)  # float32 still works


def _is_faster(one: OpenVinoEngine, other: OpenVinoEngine, output: OutputSpec) -> bool:
    compared = {"one": one, "other": other}
    rates = best_rates(lambda name: _rate(compared[name], BATCH_TOKENS[1], 1, output), compared, N_ROUNDS, MAX_ROUNDS_S)
    return rates["one"] > WORTH_ROUNDING * rates["other"]


def _fastest(engines: _Engines, chosen: Choice, n_threads: int, output: OutputSpec) -> Choice:
    """The same with the number of streams with the most tokens per second, and then the best batch size for it."""
    precision, layers, smallest = chosen.precision, chosen.float32_layers, BATCH_TOKENS[0]

    def compiled(count: int) -> OpenVinoEngine:
        return engines.get(precision, count, layers)

    tokens_per_s = _rate(compiled(1), smallest, 1, output)
    n_rounds = N_ROUNDS if smallest <= tokens_per_s * MAX_BATCH_S else 1
    size = sizes_in_time(BATCH_TOKENS[:2], tokens_per_s)[-1]
    counts = (1, *stream_counts(n_threads))
    by_streams = best_rates(lambda count: _rate(compiled(count), size, count, output), counts, n_rounds)
    n_streams = max(by_streams, key=by_streams.__getitem__)
    engines.keep(precision, n_streams, layers)
    engine, sizes = compiled(n_streams), sizes_in_time(BATCH_TOKENS, by_streams[n_streams] / n_streams)
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
