"""Measuring throughput with contexts in several threads, on the fake engine."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from gguf_embed.engines.base import ContextSpec, EngineContext
from gguf_embed.engines.fake import FakeEngine, FakeScript
from gguf_embed.engines.throughput import sample_batch, tokens_per_s
from gguf_embed.errors import EngineFailure, ModelFileError
from gguf_embed.types import OutputSpec, Pooling

BATCH = [[1, 2, 3], [4, 5]]
SPEC = ContextSpec(OutputSpec.of(Pooling.MEAN), 32, 8)


def opener(engine: FakeEngine) -> Callable[[], EngineContext]:
    return lambda: engine.open_context(SPEC)


@pytest.fixture(autouse=True)
def no_thread_remains():
    before = threading.active_count()
    yield
    assert threading.active_count() == before


@pytest.mark.parametrize("n_at_once", [1, 2, 5])
def test_every_thread_has_its_own_context_and_warms_it_up(n_at_once):
    engine = FakeEngine()
    assert tokens_per_s(opener(engine), BATCH, n_at_once, 3, 0.001) >= 0
    assert {(batch.texts, batch.n_threads) for batch in engine.batches} == {(((1, 2, 3), (4, 5)), 3)}
    assert len({batch.thread for batch in engine.batches}) == n_at_once
    assert engine.n_open_contexts == 0


def test_the_rate_is_that_of_the_batches_after_the_first():
    """The script takes 1 ms a batch at least, so 5 tokens per batch are at most 5,000 per second."""
    pause = threading.Event()
    engine = FakeEngine(FakeScript(before_batch=lambda _batch: pause.wait(0.001)))
    measured = tokens_per_s(opener(engine), BATCH, 1, 1, 0.05)
    assert 0 < measured <= 10_000  # the two clocks may start a few milliseconds apart
    assert 2 <= len(engine.batches) <= 53


def failing_from(number: int) -> Callable[[object], None]:
    """The script of an engine that fails from a batch on."""
    lock, n_batches = threading.Lock(), 0

    def before_batch(_batch: object) -> None:
        nonlocal n_batches
        with lock:
            n_batches += 1
            if n_batches > number:
                raise EngineFailure("no memory")

    return before_batch


@pytest.mark.parametrize("n_at_once", [1, 3])
@pytest.mark.parametrize("number", [0, 1, 2, 3, 5])
def test_a_failure_is_raised_and_all_threads_end(n_at_once, number):
    engine = FakeEngine(FakeScript(before_batch=failing_from(number)))
    with pytest.raises(EngineFailure, match="no memory"):
        tokens_per_s(opener(engine), BATCH, n_at_once, 1, 0.5)
    assert engine.n_open_contexts == 0


def test_a_context_that_cannot_be_opened_is_raised():
    spec, engine = ContextSpec(OutputSpec.of(Pooling.RANK), 32, 8), FakeEngine()
    with pytest.raises(ModelFileError, match="no rank head"):
        tokens_per_s(lambda: engine.open_context(spec), BATCH, 2, 1, 0.001)


def test_contexts_are_closed_if_a_further_one_cannot_be_opened():
    engine = FakeEngine()
    opened: list[EngineContext] = []

    def open_context() -> EngineContext:
        if opened:
            raise EngineFailure("no memory for another context")
        opened.append(engine.open_context(SPEC))
        return opened[-1]

    with pytest.raises(EngineFailure, match="another context"):
        tokens_per_s(open_context, BATCH, 2, 1, 0.001)
    assert engine.n_open_contexts == 0


def test_sample_batches_have_the_lengths_and_valid_ids():
    batch = sample_batch([3, 0, 120, 21], 50)
    assert [len(text) for text in batch] == [3, 0, 120, 21]
    ids = {token for text in batch for token in text}
    assert ids <= set(range(50))
    assert len(ids) > 40
    assert sample_batch([5], 1) == [[0] * 5]
    assert sample_batch([5, 5], 1000)[0] != sample_batch([5, 5], 1000)[1]
