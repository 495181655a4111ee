"""What warm-up decides from its measurements, and which batches it measures."""

import itertools

import pytest

from gguf_embed.engines.fake import BOS, FakeEngine
from gguf_embed.engines.llama.calibration import TEXT_TOKENS, Calibration, Measurements, calibrate, decide
from gguf_embed.types import OutputSpec, Pooling

EVEN = {1: 1.0, 2: 2.0, 3: 3.0, 6: 6.0, 12: 12.0}
SLOWER = {n: seconds * 2 for n, seconds in EVEN.items() if n < 12}


@pytest.mark.parametrize(
    ("quick", "batch_tokens"),
    [({3: 1.0}, 64), ({6: 1.0}, 128), ({12: 1.0}, 256)],
)
def test_the_budget_with_most_tokens_per_second_wins(quick, batch_tokens):
    chosen = decide(Measurements({**EVEN, **quick}, SLOWER, {1: 1.0}))
    assert (chosen.batch_tokens, chosen.measured) == (batch_tokens, True)


@pytest.mark.parametrize(
    ("faster_without", "flash_from"),
    [
        ((), 0),
        ((1,), 2 * TEXT_TOKENS),
        ((1, 2), 3 * TEXT_TOKENS),
        ((2,), 3 * TEXT_TOKENS),
        ((1, 2, 3, 6), 7 * TEXT_TOKENS),
    ],
)
def test_flash_attention_begins_behind_the_last_batch_that_is_faster_without(faster_without, flash_from):
    without = SLOWER | dict.fromkeys(faster_without, 0.5)
    assert decide(Measurements(EVEN, without, {1: 1.0})).flash_min_tokens == flash_from


def test_a_text_alone_gets_the_threads_that_were_quickest():
    assert decide(Measurements(EVEN, SLOWER, {1: 3.0, 2: 2.0, 4: 2.5})).alone_threads == 2


def run(seconds_per_call):
    engine = FakeEngine()
    ticks = itertools.count(0.0, seconds_per_call)  # one tick per look at the clock: every call takes as long
    chosen = calibrate(engine, OutputSpec.of(Pooling.MEAN), 2, [BOS, *range(20)], lambda: next(ticks))
    engine.close()  # refuses while a context is open
    return chosen, engine.batches


def test_a_slow_model_keeps_the_defaults_after_two_calls():
    chosen, batches = run(0.03)
    assert chosen == Calibration(alone_threads=2)
    assert len(batches) == 2


def test_a_quick_model_is_measured_with_and_without_flash_attention_and_with_all_threads():
    chosen, batches = run(0.001)
    assert chosen.measured
    assert {batch.spec.flash_attention for batch in batches} == {True, False}
    assert {batch.n_threads for batch in batches} == {1, 2}
    assert sum(batch.n_tokens for batch in batches) < 100 * TEXT_TOKENS
