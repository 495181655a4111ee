"""Which precision, streams and batch size are chosen, from measurements that are scripted here."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import pytest

from gguf_embed.engines.openvino import calibration
from gguf_embed.engines.openvino.agreement import Agreement
from gguf_embed.engines.openvino.calibration import Choice, calibrate, smallest_good, stream_counts
from gguf_embed.engines.openvino.mixed_precision import Layers
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


def test_a_choice_is_the_same_after_it_was_recorded():
    choice = Choice("bf16", 2, 256, 9.5, "near", measured=True, float32_layers=(0, 1))
    assert Choice.from_record(json.loads(json.dumps(choice.to_record()))) == choice


@pytest.mark.parametrize(
    "record",
    [
        None,
        {"precision": "f32", "from_tomorrow": 1},
        {"float32_layers": 3},
        {"float32_layers": ["a"]},
        {"float32_layers": "12"},
    ],
)
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
    float32_layers: Layers = ()
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
    dropped: list[str] = field(default_factory=list)
    agreement: Agreement = GOOD  # of BF16, but with `good_layers` in float32
    good_layers: tuple[Layers, ...] = ()
    n_layer: int = 16

    def compile(self, precision: str, n_streams: int, float32_layers: Layers) -> Any:
        self.compiled.append(FakeCompiled(precision, n_streams, float32_layers))
        return self.compiled[-1]

    def drop(self, precision: str) -> None:
        assert precision not in {precision for precision, _ in self.open}
        self.dropped.append(precision)

    def compare(self, full: Any, engine: FakeCompiled) -> Agreement:
        assert not engine.n_closed
        return GOOD if engine.float32_layers in self.good_layers else self.agreement

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


def script_to_compare(monkeypatch, script: Script) -> None:
    monkeypatch.setattr(calibration, "compare", script.compare)
    monkeypatch.setattr(calibration.FullResults, "of", lambda *_: None)


def run(monkeypatch, script: Script, precision: str, n_threads: int = 2) -> Choice:
    script_to_compare(monkeypatch, script)
    monkeypatch.setattr(calibration, "_rate", script.rate)
    choice = calibrate(script, [[1, 2]], MEAN, n_threads, precision)  # type: ignore[arg-type]
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
    choice = run(monkeypatch, Script(rates, agreement=agreement), precision)
    assert (choice.precision, choice.measured) == (chosen, True)
    too_slow = ", but it is not 1.2 times as fast" if rates is BF16_IS_SLOWER and precision == "auto" else ""
    assert choice.agreement == ("" if precision == "f32" else f"{agreement}{too_slow}")
    assert not choice.bf16_failed


@pytest.mark.parametrize(
    ("rates", "agreement", "chosen"), [(BF16_IS_FASTER, GOOD, "bf16"), (BF16_IS_FASTER, BAD, "f32"), ({}, GOOD, "f32")]
)
def test_what_is_decided_against_is_freed_before_anything_else_is_compiled(monkeypatch, rates, agreement, chosen):
    script, seen = Script(rates, agreement=agreement), []

    class Watched:
        n_layer, drop = script.n_layer, script.drop

        def compile(self, precision: str, n_streams: int, float32_layers: Layers) -> Any:
            if n_streams > 1:
                seen.append((script.open, set(script.dropped)))
            return script.compile(precision, n_streams, float32_layers)

    def rate(engine: FakeCompiled, n_tokens: int, *rest: Any) -> float:
        if n_tokens == calibration.BATCH_TOKENS[-1]:  # the streams are chosen
            seen.append((script.open, set(script.dropped)))
        return script.rate(engine, n_tokens, *rest)

    script_to_compare(monkeypatch, script)
    monkeypatch.setattr(calibration, "_rate", rate)
    choice = calibrate(Watched(), [[1]], MEAN, 2, "auto")
    other = {"bf16": "f32", "f32": "bf16"}[chosen]
    assert choice.precision == chosen
    assert seen[0] == ([(chosen, 1)], {other})
    assert {tuple(engines) for engines, _ in seen[1:]} == {((chosen, choice.n_streams),)}
    assert set(script.dropped) == {other}


HALF, QUARTER, EIGHTH = tuple(range(8)), (0, 1, 2, 3), (0, 1)


@pytest.mark.parametrize(("good_layers", "chosen"), [((HALF, QUARTER), QUARTER), ((EIGHTH,), EIGHTH), ((), ())])
def test_bf16_that_is_not_good_keeps_some_layers_in_float32(monkeypatch, good_layers, chosen):
    script = Script(BF16_IS_FASTER, agreement=BAD, good_layers=good_layers)
    choice = run(monkeypatch, script, "auto")
    assert (choice.precision, choice.float32_layers) == ("bf16" if chosen else "f32", chosen)
    assert choice.agreement == str(GOOD if chosen else BAD)
    assert {engine.float32_layers for engine in script.compiled if engine.n_streams > 1} == {chosen}


def test_layers_in_float32_that_leave_nothing_of_the_speed_are_not_kept(monkeypatch):
    script = Script(BF16_IS_SLOWER, agreement=BAD, good_layers=(HALF, QUARTER))
    choice = run(monkeypatch, script, "auto")
    assert (choice.precision, choice.float32_layers) == ("f32", ())
    assert choice.agreement == f"{GOOD}, with layers 1-4 in float32, but it is not 1.2 times as fast"


def test_two_selections_of_layers_are_never_in_memory_at_once(monkeypatch):
    script = Script(BF16_IS_FASTER, agreement=BAD, good_layers=(HALF, QUARTER))

    class Watched:
        n_layer, drop = script.n_layer, script.drop

        def compile(self, precision: str, n_streams: int, float32_layers: Layers) -> Any:
            others = [engine for engine in script.compiled if not engine.n_closed and engine.precision == precision]
            assert {engine.float32_layers for engine in others} <= {float32_layers}
            return script.compile(precision, n_streams, float32_layers)

    script_to_compare(monkeypatch, script)
    monkeypatch.setattr(calibration, "_rate", script.rate)
    assert calibrate(Watched(), [[1, 2]], MEAN, 2, "auto").float32_layers == QUARTER


@pytest.mark.parametrize(
    ("choice", "weights_type", "details"),
    [
        (Choice("f32"), "F32", ()),
        (Choice("f32", agreement="far"), "F32", ("BF16 not used: far",)),
        (Choice("bf16", agreement="near"), "BF16", ("BF16 used: near",)),
        (
            Choice("bf16", agreement="near", float32_layers=(0, 1, 2)),
            "BF16, layers 1-3 F32",
            ("BF16 used: near, with layers 1-3 in float32",),
        ),
    ],
)
def test_a_choice_in_words(choice, weights_type, details):
    assert (choice.weights_type, choice.details) == (weights_type, details)


def test_f32_never_compiles_bf16(monkeypatch):
    script = Script()
    run(monkeypatch, script, "f32")
    assert script.precisions == {"f32"}


def test_bf16_is_not_timed_if_it_is_not_good(monkeypatch):
    script = Script(agreement=BAD)
    run(monkeypatch, script, "auto")
    assert {precision for precision, _, _ in script.measured} == {"f32"}


def test_configured_bf16_is_compared_but_float32_is_not_timed(monkeypatch):
    script = Script(agreement=BAD)
    run(monkeypatch, script, "bf16")
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
    choice = calibrate(script, [[1, 2]], MEAN, 2, "f32")
    assert (choice.n_streams, choice.batch_tokens, choice.tokens_per_s) == (2, 128, 2 * FAST)


@pytest.mark.parametrize(("rates", "chosen"), [(BF16_IS_FASTER, "bf16"), (BF16_IS_SLOWER, "f32")])
@pytest.mark.parametrize("disturbed_call", [1, 2])
def test_one_slow_measurement_does_not_decide_on_the_precision(monkeypatch, rates, chosen, disturbed_call):
    script, n_calls = Script(rates), 0

    def disturbed(*args: Any) -> float:
        nonlocal n_calls
        n_calls += 1
        return script.rate(*args) / (10 if n_calls == disturbed_call else 1)

    script_to_compare(monkeypatch, script)
    monkeypatch.setattr(calibration, "_rate", disturbed)
    assert calibrate(script, [[1, 2]], MEAN, 2, "auto").precision == chosen


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
    class OnlyFloat32(Script):
        def compile(self, precision: str, n_streams: int, float32_layers: Layers) -> Any:
            if precision == "bf16":
                raise EngineFailure("no such instructions")
            return super().compile(precision, n_streams, float32_layers)

    script = OnlyFloat32()
    script_to_compare(monkeypatch, script)
    monkeypatch.setattr(calibration, "_rate", script.rate)
    if precision == "bf16":
        with pytest.raises(EngineFailure, match="no such instructions"):
            calibrate(script, [[1, 2]], MEAN, 2, precision)
    else:
        choice = calibrate(script, [[1, 2]], MEAN, 2, precision)
        assert (choice.precision, choice.agreement) == ("f32", "no such instructions")
        assert choice.bf16_failed


def test_engines_are_closed_when_measuring_fails(monkeypatch):
    script = Script()

    def fail(*_: object) -> float:
        raise RuntimeError("no memory")

    monkeypatch.setattr(calibration, "_rate", fail)
    script_to_compare(monkeypatch, script)
    with pytest.raises(RuntimeError, match="no memory"):
        calibrate(script, [[1]], MEAN, 2, "auto")
    assert [engine.n_closed for engine in script.compiled] == [1] * len(script.compiled)
