"""Which precision, streams and batch size are chosen, from measurements that are scripted here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from gguf_embed.engines.openvino import calibration
from gguf_embed.engines.openvino.calibration import Agreement, Choice, calibrate, smallest_good, stream_counts
from gguf_embed.errors import EngineFailure
from gguf_embed.types import OutputSpec, Pooling

GOOD, BAD = Agreement(0.99995, 0.999999), Agreement(0.9, 0.999999)
MEAN = OutputSpec.of(Pooling.MEAN)
FAST = 1e6  # tokens per second


@pytest.mark.parametrize(
    ("rates", "best"),
    [
        ({12: 100.0, 24: 100.0, 48: 100.0}, 12),
        ({12: 98.0, 24: 99.0, 48: 100.0}, 12),
        ({12: 97.9, 24: 98.0, 48: 100.0}, 24),
        ({12: 50.0, 24: 80.0, 48: 100.0}, 48),
        ({12: 100.0, 24: 80.0, 48: 60.0}, 12),
        ({12: 7.0}, 12),
    ],
)
def test_the_smallest_batch_that_is_nearly_as_fast(rates, best):
    assert smallest_good(rates) == best


@pytest.mark.parametrize(
    ("n_threads", "counts"), [(1, ()), (2, (2,)), (4, (4,)), (7, (7,)), (8, (2, 8)), (32, (8, 32))]
)
def test_streams_that_are_tried_besides_one(n_threads, counts):
    assert stream_counts(n_threads) == counts


@pytest.mark.parametrize(
    ("agreement", "is_good"),
    [
        (Agreement(0.99995, 0.99999, 0.01), True),
        (Agreement(0.99994, 0.99999), False),
        (Agreement(0.99995, 0.999989), False),
        (Agreement(1.0, 1.0, 0.0101), False),
        (Agreement(float("nan"), 1.0), False),
        (Agreement(1.0, float("nan")), False),
        (Agreement(1.0, 1.0, float("nan")), False),
    ],
)
def test_agreement_at_its_borders(agreement, is_good):
    assert agreement.is_good is is_good


def test_agreement_in_words():
    assert str(Agreement(0.99995, 0.9999999)) == "cosine 0.999950 to float32, 0.9999999 alone to in a batch"


def test_a_choice_is_the_same_after_it_was_recorded():
    choice = Choice("bf16", 2, 256, 9.5, "near", True)
    assert Choice.from_record(choice.to_record()) == choice


@pytest.mark.parametrize("record", [None, {"precision": "f32", "from_tomorrow": 1}])
def test_a_record_that_is_missing_or_of_another_version_is_none(record):
    assert Choice.from_record(record) is None


@pytest.mark.parametrize(("n_streams", "expected"), [(None, 3), (1, 1), (5, 5)])
def test_configured_streams_replace_measured_ones(n_streams, expected):
    assert Choice(n_streams=3).with_streams(n_streams) == Choice(n_streams=expected)


@dataclass
class FakeCompiled:
    """An engine that only knows how it was compiled."""

    precision: str
    n_streams: int
    n_closed: int = 0

    def kernel_name(self) -> str:
        return "fake"

    def close(self) -> None:
        self.n_closed += 1


@dataclass
class Script:
    """Compiles fakes and says how fast they are: tokens per second by precision, streams, and tokens in a batch."""

    rates: dict[tuple[str, int, int], float] = field(default_factory=dict)
    compiled: list[FakeCompiled] = field(default_factory=list)
    measured: list[tuple[str, int, int]] = field(default_factory=list)

    def compile(self, precision: str, n_streams: int) -> Any:
        self.compiled.append(FakeCompiled(precision, n_streams))
        return self.compiled[-1]

    def rate(self, engine: FakeCompiled, n_tokens: int, n_streams: int, output: OutputSpec) -> float:
        assert not engine.n_closed
        assert n_streams == engine.n_streams
        self.measured.append((engine.precision, engine.n_streams, n_tokens))
        return self.rates.get(self.measured[-1], FAST)

    @property
    def precisions(self) -> set[str]:
        return {engine.precision for engine in self.compiled}

    @property
    def open(self) -> list[tuple[str, int]]:
        return [(engine.precision, engine.n_streams) for engine in self.compiled if not engine.n_closed]


def run(monkeypatch, script: Script, precision: str, agreement: Agreement = GOOD, n_threads: int = 2) -> Choice:
    monkeypatch.setattr(calibration, "_rate", script.rate)
    monkeypatch.setattr(calibration, "compare", lambda *_: agreement)
    choice = calibrate(script.compile, [[1, 2]], MEAN, n_threads, precision)  # type: ignore[arg-type]
    assert [engine.n_closed for engine in script.compiled] == [1] * len(script.compiled)
    return choice


BF16_IS_FASTER = {("bf16", 1, 128): 3 * FAST, ("bf16", 1, 256): 3 * FAST}
BF16_IS_SLOWER = dict.fromkeys(BF16_IS_FASTER, FAST / 2) | {("bf16", 2, n): FAST / 2 for n in (128, 256, 512)}


@pytest.mark.parametrize(
    ("precision", "rates", "agreement", "chosen"),
    [
        ("auto", BF16_IS_FASTER, GOOD, "bf16"),
        ("auto", BF16_IS_FASTER, BAD, "f32"),
        ("auto", BF16_IS_SLOWER, GOOD, "f32"),
        ("f32", BF16_IS_FASTER, GOOD, "f32"),
        ("bf16", BF16_IS_SLOWER, BAD, "bf16"),
    ],
)
def test_bf16_is_chosen_if_it_is_good_and_faster_or_configured(monkeypatch, precision, rates, agreement, chosen):
    choice = run(monkeypatch, Script(rates), precision, agreement)
    assert (choice.precision, choice.measured) == (chosen, True)
    assert choice.agreement == ("" if precision == "f32" else str(agreement))
    assert not choice.bf16_failed


@pytest.mark.parametrize(
    ("rates", "agreement", "chosen"), [(BF16_IS_FASTER, GOOD, "bf16"), (BF16_IS_FASTER, BAD, "f32"), ({}, GOOD, "f32")]
)
def test_what_is_decided_against_is_freed_before_anything_else_is_compiled(monkeypatch, rates, agreement, chosen):
    script, dropped, seen = Script(rates), [], []

    def compile_engine(precision: str, n_streams: int) -> Any:
        if n_streams > 1:
            seen.append((script.open, list(dropped)))
        return script.compile(precision, n_streams)

    def rate(engine: FakeCompiled, n_tokens: int, *rest: Any) -> float:
        if n_tokens == calibration.BATCH_TOKENS[-1]:  # the streams are chosen
            seen.append((script.open, list(dropped)))
        return script.rate(engine, n_tokens, *rest)

    def drop(precision: str) -> None:
        assert precision not in {precision for precision, _ in script.open}
        dropped.append(precision)

    monkeypatch.setattr(calibration, "_rate", rate)
    monkeypatch.setattr(calibration, "compare", lambda *_: agreement)
    choice = calibrate(compile_engine, [[1]], MEAN, 2, "auto", drop=drop)
    other = {"bf16": "f32", "f32": "bf16"}[chosen]
    assert choice.precision == chosen
    assert seen[0] == ([(chosen, 1)], [other])
    assert {tuple(engines) for engines, _ in seen[1:]} == {((chosen, choice.n_streams),)}
    assert set(dropped) == {other}


def test_f32_never_compiles_bf16(monkeypatch):
    script = Script()
    run(monkeypatch, script, "f32")
    assert script.precisions == {"f32"}


def test_bf16_is_not_timed_if_it_is_not_good(monkeypatch):
    script = Script()
    run(monkeypatch, script, "auto", BAD)
    assert {precision for precision, _, _ in script.measured} == {"f32"}


def test_configured_bf16_is_compared_but_float32_is_not_timed(monkeypatch):
    script = Script()
    run(monkeypatch, script, "bf16", BAD)
    assert {precision for precision, _, _ in script.measured} == {"bf16"}


@pytest.mark.parametrize(
    ("rates", "n_streams", "batch_tokens"),
    [
        ({}, 1, 128),
        ({("f32", 1, 1024): 2 * FAST}, 1, 1024),
        ({("f32", 2, 256): 2 * FAST}, 2, 256),
        ({("f32", 8, 256): 2 * FAST}, 8, 256),
        ({("f32", 1, 256): 2 * FAST}, 1, 256),
    ],
)
def test_the_fastest_streams_and_batch(monkeypatch, rates, n_streams, batch_tokens):
    choice = run(monkeypatch, Script(rates), "f32", n_threads=8)
    assert (choice.n_streams, choice.batch_tokens) == (n_streams, batch_tokens)
    assert choice.tokens_per_s == max(rates.values(), default=FAST)


def test_one_slow_measurement_does_not_decide(monkeypatch):
    """While another process computes, everything looks slower for a while."""
    script, n_disturbed = Script({("f32", 2, n_tokens): 2 * FAST for n_tokens in calibration.BATCH_TOKENS}), 0

    def disturbed(*args: Any) -> float:
        nonlocal n_disturbed
        n_disturbed += 1
        return script.rate(*args) / (10 if n_disturbed in (3, 6, 7) else 1)

    monkeypatch.setattr(calibration, "_rate", disturbed)
    choice = calibrate(script.compile, [[1, 2]], MEAN, 2, "f32")
    assert (choice.n_streams, choice.batch_tokens, choice.tokens_per_s) == (2, 128, 2 * FAST)


@pytest.mark.parametrize(
    ("tokens_per_s", "sizes"),
    [(FAST, (128, 256, 512, 1024)), (4096.0, (128, 256, 512, 1024)), (2500.0, (128, 256, 512)), (5.0, (128,))],
)
def test_batches_that_others_would_wait_for_are_not_measured(tokens_per_s, sizes):
    assert tuple(calibration.sizes_in_time(calibration.BATCH_TOKENS, tokens_per_s)) == sizes


def test_a_slow_model_is_measured_once_with_the_smallest_batch_only(monkeypatch):
    slow = calibration.BATCH_TOKENS[0] / calibration.MAX_BATCH_S * 0.9
    script = Script({("f32", n_streams, 128): slow for n_streams in (1, 2)})
    choice = run(monkeypatch, script, "f32")
    assert {n_tokens for _, _, n_tokens in script.measured} == {128}
    assert len(script.measured) == 4
    assert choice.batch_tokens == 128


@pytest.mark.parametrize("precision", ["auto", "bf16"])
def test_a_cpu_that_cannot_compile_bf16_after_all_runs_float32_unless_bf16_is_configured(monkeypatch, precision):
    script = Script()

    def compile_full(kind: str, n_streams: int) -> Any:
        if kind == "bf16":
            raise EngineFailure("no such instructions")
        return script.compile(kind, n_streams)

    monkeypatch.setattr(calibration, "_rate", script.rate)
    if precision == "bf16":
        with pytest.raises(EngineFailure, match="no such instructions"):
            calibrate(compile_full, [[1, 2]], MEAN, 2, precision)
    else:
        choice = calibrate(compile_full, [[1, 2]], MEAN, 2, precision)
        assert (choice.precision, choice.agreement) == ("f32", "no such instructions")
        assert choice.bf16_failed


def test_engines_are_closed_when_measuring_fails(monkeypatch):
    script = Script()

    def fail(*_: object) -> float:
        raise RuntimeError("no memory")

    monkeypatch.setattr(calibration, "_rate", fail)
    monkeypatch.setattr(calibration, "compare", lambda *_: GOOD)
    with pytest.raises(RuntimeError, match="no memory"):
        calibrate(script.compile, [[1]], MEAN, 2, "auto")
    assert [engine.n_closed for engine in script.compiled] == [1] * len(script.compiled)
