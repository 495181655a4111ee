from __future__ import annotations

import logging
import threading

import numpy as np
import pytest

from gguf_embed.engines.fake import FakeBatch, FakeContexts, FakeEngine, FakeScript, token_rows
from gguf_embed.errors import EngineFailure, InvalidInput, ModelFileError, Unavailable
from gguf_embed.scheduler.task import Batch, BatchKey, BatchOutcome
from gguf_embed.scheduler.worker import ContextSet, Worker, run_isolated
from gguf_embed.types import OutputSpec
from gguf_embed.vectors import Rows
from tests.scheduler.builders import MEAN, SCORE, TOKEN_ROWS, admit, make_queue, make_request, make_tasks

POISON, NAN, DEADLY = 66, 77, 88
PLAN = FakeContexts(max_tokens=16, max_sequences=8, long_tokens=64)
SAFETY_S = 10.0


def make_batch(*texts: list[int], output: OutputSpec = MEAN) -> Batch:
    key = BatchKey(output, long=False)
    tasks = make_tasks([len(text) for text in texts], key=key)
    for task, text in zip(tasks, texts, strict=True):
        task.tokens = text
    return Batch(key, tasks, sum(map(len, texts)), 1, 16)


@pytest.fixture
def engine():
    engine = FakeEngine(
        FakeScript(poison=frozenset({POISON}), nan=frozenset({NAN}), deadly=frozenset({DEADLY}), n_embd=4)
    )
    yield engine
    engine.close()  # refuses while a context is open


@pytest.fixture
def contexts(engine):
    contexts = ContextSet(engine, PLAN)
    yield contexts
    contexts.close()


def mean_row(text: list[int]) -> np.ndarray:
    return token_rows(text, 4).mean(axis=0, keepdims=True)


def texts_run(engine: FakeEngine) -> list[tuple[tuple[int, ...], ...]]:
    return [batch.texts for batch in engine.batches]


def test_a_good_batch_runs_once_and_each_text_gets_its_row(engine, contexts):
    results = run_isolated(contexts, make_batch([1, 2], [3]))
    np.testing.assert_array_equal(results[0].matrix, mean_row([1, 2]))
    np.testing.assert_array_equal(results[1].matrix, mean_row([3]))
    assert texts_run(engine) == [((1, 2), (3,))]


def test_a_poison_text_fails_alone_after_one_retry_text_by_text(engine, contexts):
    results = run_isolated(contexts, make_batch([1], [POISON], [3]))
    np.testing.assert_array_equal(results[0].matrix, mean_row([1]))
    assert isinstance(results[1], EngineFailure)
    np.testing.assert_array_equal(results[2].matrix, mean_row([3]))
    assert texts_run(engine) == [((1,), (POISON,), (3,)), ((1,),), ((POISON,),), ((3,),)]


def test_rows_that_are_not_finite_become_an_error_of_that_text_only(contexts):
    results = run_isolated(contexts, make_batch([1], [2, NAN]))
    np.testing.assert_array_equal(results[0].matrix, mean_row([1]))
    assert isinstance(results[1], EngineFailure)
    assert "not finite" in results[1].message


def test_a_context_that_returned_nan_is_replaced_before_its_texts_run_again(caplog):
    """NaN may stay in what a context keeps between batches."""
    broken_by = iter([False, True])  # the second batch only
    engine = FakeEngine(FakeScript(breaks=lambda _batch: next(broken_by, False), n_embd=4))
    contexts = ContextSet(engine, PLAN)
    run_isolated(contexts, make_batch([3], output=TOKEN_ROWS))
    results = run_isolated(contexts, make_batch([1], [2]))
    np.testing.assert_array_equal(Rows.join(results).matrix, np.concatenate([mean_row([1]), mean_row([2])]))
    assert engine.n_opened_contexts == 3
    run_isolated(contexts, make_batch([3]))
    run_isolated(contexts, make_batch([3], output=TOKEN_ROWS))  # its context is the one from before
    assert engine.n_opened_contexts == 3
    contexts.close()
    engine.close()


@pytest.mark.parametrize(
    ("breaks", "failing"),
    [
        (lambda batch: len(batch.texts) > 1, []),
        (lambda batch: (2,) in batch.texts, [1]),
        (lambda batch: True, [0, 1, 2]),
    ],
)
def test_texts_that_break_a_context_break_it_for_no_other_text(breaks, failing):
    engine = FakeEngine(FakeScript(breaks=breaks, n_embd=4))
    contexts = ContextSet(engine, PLAN)
    results = run_isolated(contexts, make_batch([1], [2], [3]))
    assert [number for number, result in enumerate(results) if isinstance(result, EngineFailure)] == failing
    for text, result in enumerate(results, start=1):
        if isinstance(result, Rows):
            np.testing.assert_array_equal(result.matrix, mean_row([text]))
    contexts.close()
    engine.close()


def refuse_text(_batch: FakeBatch) -> None:
    raise InvalidInput(0, ": its rows add up to zero")


def test_an_error_of_the_text_keeps_the_context():
    engine = FakeEngine(FakeScript(before_batch=refuse_text))
    contexts = ContextSet(engine, PLAN)
    run_isolated(contexts, make_batch([1], [2]))
    assert engine.n_opened_contexts == 1
    contexts.close()


def refuse_company(batch: FakeBatch) -> None:
    if len(batch.texts) > 1:
        raise EngineFailure("no batches today")


def test_good_texts_whose_batch_fails_succeed_one_by_one():
    contexts = ContextSet(FakeEngine(FakeScript(before_batch=refuse_company, n_embd=4)), PLAN)
    results = run_isolated(contexts, make_batch([1], [2]))
    np.testing.assert_array_equal(Rows.join(results).matrix, np.concatenate([mean_row([1]), mean_row([2])]))
    contexts.close()


def be_gone(_batch: FakeBatch) -> None:
    raise Unavailable("the engine is being restarted", retry_after_s=2)


def test_texts_are_not_tried_one_by_one_on_an_engine_that_is_gone():
    engine = FakeEngine(FakeScript(before_batch=be_gone))
    contexts = ContextSet(engine, PLAN)
    results = run_isolated(contexts, make_batch([1], [2]))
    assert [result.retry_after_s for result in results] == [2, 2]
    assert texts_run(engine) == [((1,), (2,))]
    contexts.close()


def break_down(_batch: FakeBatch) -> None:
    raise ZeroDivisionError("a foreign fault")


def test_a_foreign_exception_is_answered_as_an_engine_failure():
    contexts = ContextSet(FakeEngine(FakeScript(before_batch=break_down)), PLAN)
    (result,) = run_isolated(contexts, make_batch([1]))
    assert isinstance(result, EngineFailure)
    assert "a foreign fault" in result.message
    contexts.close()


def test_a_context_that_cannot_be_opened_answers_every_text_with_its_reason(contexts):
    results = run_isolated(contexts, make_batch([1], [2], output=SCORE))
    assert [type(result) for result in results] == [ModelFileError, ModelFileError]


def test_token_rows_are_assigned_to_their_texts(contexts):
    results = run_isolated(contexts, make_batch([1, 2, 3], [4], output=TOKEN_ROWS))
    np.testing.assert_array_equal(results[0].matrix, token_rows([1, 2, 3], 4))
    np.testing.assert_array_equal(results[1].matrix, token_rows([4], 4))


def test_contexts_open_once_when_needed_and_close_together(engine, contexts):
    assert engine.n_open_contexts == 0
    for _ in range(2):
        run_isolated(contexts, make_batch([1]))
        run_isolated(contexts, make_batch([1], output=TOKEN_ROWS))
    assert engine.n_open_contexts == 2
    contexts.close()
    assert engine.n_open_contexts == 0


class Recorder:
    """What a worker reported."""

    def __init__(self) -> None:
        self.outcomes: list[BatchOutcome] = []
        self.deaths: list[tuple[Batch | None, BaseException]] = []

    def die(self, batch: Batch | None, error: BaseException) -> None:
        self.deaths.append((batch, error))


def test_a_worker_runs_until_the_queue_is_closed_and_empty_then_frees_its_contexts(engine):
    queue, seen = make_queue(max_sequences=1), Recorder()
    worker = Worker(0, queue, ContextSet(engine, PLAN), seen.outcomes.append, seen.die)
    admit(queue, [3, 4, 20])
    queue.close()
    worker.start()
    assert worker.join(SAFETY_S)
    assert [[len(task.tokens) for task in outcome.batch.tasks] for outcome in seen.outcomes] == [[3], [4], [20]]
    assert seen.deaths == []
    assert engine.n_open_contexts == 0


def test_a_dying_worker_reports_the_batch_it_had(engine, caplog):
    queue, seen = make_queue(), Recorder()
    worker = Worker(0, queue, ContextSet(engine, PLAN), seen.outcomes.append, seen.die)
    request = make_request()
    queue.admit(request, MEAN, [[DEADLY]])
    worker.start()
    assert worker.join(SAFETY_S)
    ((batch, error),) = seen.deaths
    assert [task.request for task in batch.tasks] == [request]
    assert isinstance(error, SystemExit)
    assert [record.levelno for record in caplog.records] == [logging.CRITICAL]


def test_a_worker_that_dies_between_batches_reports_no_answered_batch(engine, monkeypatch):
    queue, seen = make_queue(), Recorder()
    worker = Worker(0, queue, ContextSet(engine, PLAN), seen.outcomes.append, seen.die)
    admit(queue, [3])
    batches = iter([queue.take(0)])
    monkeypatch.setattr(queue, "take", lambda *_: next(batches))  # the second time it raises
    worker.start()
    assert worker.join(SAFETY_S)
    assert len(seen.outcomes) == 1
    ((batch, error),) = seen.deaths
    assert batch is None
    assert isinstance(error, StopIteration)


class BufferedEngine(FakeEngine):
    """A fake engine whose contexts keep buffers, and say in `released` when they freed them."""

    def __init__(self) -> None:
        super().__init__(FakeScript(n_embd=4))
        self.released = threading.Semaphore(0)

    def open_context(self, spec):
        context = super().open_context(spec)
        context.release_buffers = self.released.release
        return context


def test_an_idle_worker_frees_its_contexts_buffers_once_and_goes_on(monkeypatch):
    monkeypatch.setattr("gguf_embed.scheduler.worker.RELEASE_AFTER_S", 0.01)
    queue, seen, engine = make_queue(), Recorder(), BufferedEngine()
    worker = Worker(0, queue, ContextSet(engine, PLAN), seen.outcomes.append, seen.die)
    worker.start()
    for n_answered in (1, 2):
        admit(queue, [3])
        assert engine.released.acquire(timeout=SAFETY_S)
        assert len(seen.outcomes) == n_answered
    assert not engine.released.acquire(timeout=0.05)  # it waits for work now, as long as it takes
    queue.close()
    assert worker.join(SAFETY_S)
    assert not seen.deaths


def test_a_worker_outlives_buffers_that_cannot_be_freed(monkeypatch, caplog):
    monkeypatch.setattr("gguf_embed.scheduler.worker.RELEASE_AFTER_S", 0.01)
    tried = threading.Semaphore(0)

    def refuse(_contexts: object) -> None:
        tried.release()
        raise ValueError("not now")

    monkeypatch.setattr("gguf_embed.scheduler.worker.release_buffers", refuse)
    queue, seen = make_queue(), Recorder()
    worker = Worker(0, queue, ContextSet(FakeEngine(FakeScript(n_embd=4)), PLAN), seen.outcomes.append, seen.die)
    worker.start()
    assert tried.acquire(timeout=SAFETY_S)
    admit(queue, [3])
    queue.close()
    assert worker.join(SAFETY_S)
    assert (len(seen.outcomes), seen.deaths) == (1, [])
    assert "buffers of an idle worker could not be freed" in caplog.text


def test_a_worker_that_never_started_can_be_joined(engine):
    worker = Worker(0, make_queue(), ContextSet(engine, PLAN), lambda _outcome: None, lambda _batch, _error: None)
    assert worker.join()
