from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from random import Random
from typing import Any, TypeVar

import numpy as np
import pytest

from gguf_embed.config import QueueConfig
from gguf_embed.engines.fake import FakeBatch, FakeEngine, FakeScript, fake_plan, token_rows
from gguf_embed.errors import EngineFailure, Overloaded, Unavailable
from gguf_embed.scheduler.scheduler import Scheduler, Submission
from gguf_embed.types import CALLER, Caller, Priority
from gguf_embed.vectors import Rows
from tests.scheduler.builders import MEAN, TOKEN_ROWS

T = TypeVar("T")
SAFETY_S = 20.0
POISON, DEADLY = 66, 88
SLOW = 99  # a batch with this token waits at the gate


class Counts:
    """The batches an observer saw; workers call it."""

    def __init__(self) -> None:
        self.batches: list[tuple[int, int, int]] = []

    def observe_batch(self, n_texts: int, n_tokens: int, budget_tokens: int, compute_s: float) -> None:
        assert compute_s >= 0
        self.batches.append((n_texts, n_tokens, budget_tokens))


class Gate:
    """Holds batches with the token SLOW until opened; `entered` tells that one has arrived."""

    def __init__(self) -> None:
        self.entered = threading.Semaphore(0)
        self.opened = threading.Event()

    def __call__(self, batch: FakeBatch) -> None:
        if any(SLOW in text for text in batch.texts):
            self.entered.release()
            assert self.opened.wait(SAFETY_S)

    async def wait_until_entered(self) -> None:
        assert await asyncio.to_thread(self.entered.acquire, timeout=SAFETY_S)


def make_scheduler(
    engine: FakeEngine | None = None,
    *,
    n_workers: int = 2,
    max_queued_tokens: int = 100_000,
    max_wait_s: float = 0.0,
    counts: Counts | None = None,
) -> Scheduler:
    config = QueueConfig(max_queued_tokens, max_wait_s=max_wait_s)
    return Scheduler(engine or FakeEngine(), fake_plan(n_workers=n_workers), config, counts or Counts())


@contextmanager
def running(engine: FakeEngine | None = None, **settings: Any) -> Iterator[Scheduler]:
    scheduler = make_scheduler(engine, **settings)
    scheduler.start()
    try:
        yield scheduler
    finally:
        scheduler.close()


def run(main: Coroutine[object, object, T]) -> T:
    async def limited() -> T:
        async with asyncio.timeout(SAFETY_S):
            return await main

    return asyncio.run(limited())


def mean_rows(texts: list[list[int]]) -> np.ndarray:
    return np.concatenate([token_rows(text, 8).mean(axis=0, keepdims=True) for text in texts])


async def admitted(scheduler: Scheduler, *requests: list[list[int]]) -> list[asyncio.Task[Submission]]:
    """Submit each and return once all are in the queue."""
    tasks = [asyncio.create_task(scheduler.submit(texts, MEAN)) for texts in requests]
    await asyncio.sleep(0)  # one turn: `submit` admits before it first awaits
    return tasks


async def occupied(scheduler: Scheduler, gate: Gate) -> asyncio.Task[Submission]:
    """Submit a request that keeps a worker until the gate is opened, and return once it has begun."""
    (request,) = await admitted(scheduler, [[SLOW]])
    await gate.wait_until_entered()
    return request


def random_texts(random: Random) -> list[list[int]]:
    """Up to 12 texts, some over the batch budget."""
    lengths = [random.choice((1, 3, 9, 20, 32, 33, 100)) for _ in range(random.randint(1, 12))]
    return [[random.randrange(256) for _ in range(length)] for length in lengths]


def test_64_concurrent_requests_each_get_their_own_rows_in_order():
    random = Random(1)
    requests = [random_texts(random) for _ in range(64)]

    async def main() -> list[Submission]:
        return await asyncio.gather(*(scheduler.submit(texts, MEAN) for texts in requests))

    with running() as scheduler:
        submissions = run(main())
    for texts, submission in zip(requests, submissions, strict=True):
        np.testing.assert_array_equal(Rows.join(submission.outputs).matrix, mean_rows(texts))


def test_token_rows_come_back_per_text():
    texts = [[1, 2, 3], [4], list(range(100))]
    with running() as scheduler:
        submission = run(scheduler.submit(texts, TOKEN_ROWS))
    for text, rows in zip(texts, submission.outputs, strict=True):
        np.testing.assert_array_equal(rows.matrix, token_rows(text, 8))


def test_no_texts_are_answered_at_once():
    assert run(make_scheduler().submit([], MEAN)).outputs == []


def test_texts_of_different_requests_share_a_batch():
    gate = Gate()
    engine = FakeEngine(FakeScript(before_batch=gate))

    async def main() -> None:
        first = await occupied(scheduler, gate)
        rest = await admitted(scheduler, [[1]], [[2]], [[3]])
        gate.opened.set()
        await asyncio.gather(first, *rest)

    with running(engine, n_workers=1) as scheduler:
        run(main())
    assert [batch.texts for batch in engine.batches] == [((SLOW,),), ((1,), (2,), (3,))]


def test_a_cancelled_request_is_dropped_before_it_runs():
    gate = Gate()
    engine = FakeEngine(FakeScript(before_batch=gate))

    async def main() -> None:
        first = await occupied(scheduler, gate)
        (victim,) = await admitted(scheduler, [[1], [2]])
        victim.cancel()
        with pytest.raises(asyncio.CancelledError):
            await victim
        gate.opened.set()
        await asyncio.gather(first, scheduler.submit([[3]], MEAN))

    with running(engine, n_workers=1) as scheduler:
        run(main())
    assert [batch.texts for batch in engine.batches] == [((SLOW,),), ((3,),)]
    assert scheduler.state().n_texts == 0


def test_cancelling_a_running_request_does_not_affect_others():
    gate = Gate()

    async def main() -> Submission:
        victim = await occupied(scheduler, gate)
        victim.cancel()
        with pytest.raises(asyncio.CancelledError):
            await victim
        gate.opened.set()
        return await scheduler.submit([[3]], MEAN)

    with running(FakeEngine(FakeScript(before_batch=gate)), n_workers=1) as scheduler:
        np.testing.assert_array_equal(Rows.join(run(main()).outputs).matrix, mean_rows([[3]]))


def test_a_poison_text_fails_its_own_request_only():
    gate = Gate()

    async def main() -> list[Submission]:
        first = await occupied(scheduler, gate)
        good, bad = await admitted(scheduler, [[1], [2]], [[3], [POISON], [4]])
        gate.opened.set()
        _, *outcomes = await asyncio.gather(first, good, bad)
        return outcomes

    engine = FakeEngine(FakeScript(before_batch=gate, poison=frozenset({POISON})))
    with running(engine, n_workers=1) as scheduler:
        good, bad = run(main())
    np.testing.assert_array_equal(Rows.join(good.outputs).matrix, mean_rows([[1], [2]]))
    assert list(bad.failures) == [1]
    assert isinstance(bad.failures[1], EngineFailure)


def test_a_full_queue_refuses_at_once_and_serves_what_it_holds():
    gate = Gate()

    async def main() -> None:
        first = await occupied(scheduler, gate)
        held = await admitted(scheduler, [[1] * 8])
        with pytest.raises(Overloaded):
            await scheduler.submit([[2], [3], [4]], MEAN)
        gate.opened.set()
        await asyncio.gather(first, *held)

    engine = FakeEngine(FakeScript(before_batch=gate))
    with running(engine, n_workers=1, max_queued_tokens=10) as scheduler:
        run(main())
    assert [batch.n_tokens for batch in engine.batches] == [1, 8]


def test_a_request_waits_for_room_and_a_client_that_leaves_gives_up_its_place():
    gate = Gate()

    async def main() -> Submission:
        first = await occupied(scheduler, gate)
        held, leaving, last = await admitted(scheduler, [[1] * 8], [[2] * 60], [[3] * 100])
        assert scheduler.state().n_outside == 2
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        assert scheduler.state().n_outside == 1
        gate.opened.set()
        await asyncio.gather(first, held)
        return await last

    engine = FakeEngine(FakeScript(before_batch=gate))
    with running(engine, n_workers=1, max_queued_tokens=10, max_wait_s=SAFETY_S) as scheduler:
        submission = run(main())
    assert [batch.n_tokens for batch in engine.batches] == [1, 8, 100]
    assert submission.queue_s > 0


def test_a_client_that_leaves_the_queue_makes_room_for_the_next():
    gate = Gate()

    async def main() -> None:
        first = await occupied(scheduler, gate)
        (leaving,) = await admitted(scheduler, [[1] * 8])
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        next_ones = await admitted(scheduler, [[2] * 9])
        assert scheduler.state().n_tokens == 9
        gate.opened.set()
        await asyncio.gather(first, *next_ones)

    engine = FakeEngine(FakeScript(before_batch=gate))
    with running(engine, n_workers=1, max_queued_tokens=10) as scheduler:
        run(main())
    assert [batch.n_tokens for batch in engine.batches] == [1, 9]


def test_a_request_waits_no_longer_than_it_may():
    gate = Gate()

    async def main() -> None:
        first = await occupied(scheduler, gate)
        held = await admitted(scheduler, [[1] * 8])
        with pytest.raises(Overloaded, match="this request has 100, and the limit is 10"):
            await scheduler.submit([[3] * 100], MEAN)
        assert scheduler.state().n_outside == 0
        gate.opened.set()
        await asyncio.gather(first, *held)

    with running(
        FakeEngine(FakeScript(before_batch=gate)), n_workers=1, max_queued_tokens=10, max_wait_s=0.1
    ) as scheduler:
        run(main())


def test_the_caller_of_a_task_is_that_of_its_request():
    gate = Gate()

    async def as_caller(caller: Caller, texts: list[list[int]]) -> Submission:
        CALLER.set(caller)
        return await scheduler.submit(texts, MEAN)

    async def main() -> None:
        first = await occupied(scheduler, gate)
        job = asyncio.create_task(as_caller(Caller("job", Priority.BATCH), [[1] * 32] * 4))
        await asyncio.sleep(0)
        person = asyncio.create_task(as_caller(Caller("person"), [[2] * 32] * 4))
        await asyncio.sleep(0)
        gate.opened.set()
        await asyncio.gather(first, job, person)

    engine = FakeEngine(FakeScript(before_batch=gate))
    with running(engine, n_workers=1) as scheduler:
        run(main())
    assert [batch.texts[0][0] for batch in engine.batches][1:5] == [2] * 4  # though the job came first


def test_a_worker_s_death_fails_all_requests_and_closes_the_queue():
    gate = Gate()

    async def main() -> list[BaseException]:
        dying = await admitted(scheduler, [[SLOW, DEADLY], [5]])
        await gate.wait_until_entered()
        waiting = await admitted(scheduler, [[1]], [[2] * 100, [3]])
        gate.opened.set()
        outcomes = await asyncio.gather(*dying, *waiting, return_exceptions=True)
        with pytest.raises(Unavailable, match="told to die"):
            await scheduler.submit([[4]], MEAN)
        return outcomes

    engine = FakeEngine(FakeScript(before_batch=gate, deadly=frozenset({DEADLY})))
    with running(engine, n_workers=1) as scheduler:
        outcomes = run(main())
    assert [type(outcome) for outcome in outcomes] == [Unavailable] * 3
    assert "SystemExit" in scheduler.state().failure
    engine.close()  # its contexts were freed nevertheless


def test_when_one_worker_dies_the_other_finishes_its_batch():
    gate = Gate()

    async def main() -> tuple[Submission, BaseException]:
        slow = await occupied(scheduler, gate)
        (dead,) = await asyncio.gather(scheduler.submit([[DEADLY]], MEAN), return_exceptions=True)
        gate.opened.set()
        return await slow, dead

    with running(FakeEngine(FakeScript(before_batch=gate, deadly=frozenset({DEADLY})))) as scheduler:
        slow, dead = run(main())
    np.testing.assert_array_equal(Rows.join(slow.outputs).matrix, mean_rows([[SLOW]]))
    assert isinstance(dead, Unavailable)


@pytest.mark.parametrize("token", [DEADLY, 1])
def test_closed_event_loops_do_not_affect_others(token):
    gate = Gate()

    async def main() -> list[object]:
        first = await occupied(scheduler, gate)
        orphans = [await asyncio.to_thread(leave_behind, scheduler) for _ in range(3)]
        last = await admitted(scheduler, [[token]])
        gate.opened.set()
        outcomes = await asyncio.gather(first, *last, return_exceptions=True)
        assert not any(orphan.done() for orphan in orphans)
        return outcomes

    engine = FakeEngine(FakeScript(before_batch=gate, deadly=frozenset({DEADLY})))
    with running(engine, n_workers=1) as scheduler:
        outcomes = run(main())
    assert [type(outcome) for outcome in outcomes] == [Submission, Unavailable if token == DEADLY else Submission]


def leave_behind(scheduler: Scheduler) -> asyncio.Task[Submission]:
    """A request whose event loop was closed under it."""
    loop = asyncio.new_event_loop()
    orphan = loop.create_task(scheduler.submit([[1], [2]], MEAN))
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    orphan._log_destroy_pending = False
    return orphan


def test_closing_answers_what_was_accepted_and_refuses_the_rest():
    gate = Gate()

    async def main() -> list[Submission]:
        first = await occupied(scheduler, gate)
        waiting = await admitted(scheduler, [[1]], [[2] * 100, [3]])
        closing = asyncio.create_task(asyncio.to_thread(scheduler.close))
        gate.opened.set()
        submissions = await asyncio.gather(first, *waiting)
        await closing
        with pytest.raises(Unavailable, match="shutting down"):
            await scheduler.submit([[4]], MEAN)
        return submissions

    engine = FakeEngine(FakeScript(before_batch=gate))
    with running(engine) as scheduler:
        submissions = run(main())
    np.testing.assert_array_equal(Rows.join(submissions[2].outputs).matrix, mean_rows([[2] * 100, [3]]))
    engine.close()  # refuses while a context is open


def test_a_scheduler_that_was_never_started_can_be_closed():
    scheduler = make_scheduler(FakeEngine())
    scheduler.close()
    assert scheduler.state().closed


def test_two_event_loops_are_served_side_by_side():
    random = Random(2)
    shares = [[random_texts(random) for _ in range(16)] for _ in range(2)]

    async def main(requests: list[list[list[int]]]) -> list[Submission]:
        return await asyncio.gather(*(scheduler.submit(texts, MEAN) for texts in requests))

    with running() as scheduler, ThreadPoolExecutor(2) as threads:
        answers = [thread.result(SAFETY_S) for thread in [threads.submit(run, main(share)) for share in shares]]
    for requests, submissions in zip(shares, answers, strict=True):
        for texts, submission in zip(requests, submissions, strict=True):
            np.testing.assert_array_equal(Rows.join(submission.outputs).matrix, mean_rows(texts))


def test_the_observer_counts_every_batch_and_the_submission_its_time():
    counts = Counts()
    with running(counts=counts, n_workers=1) as scheduler:
        submission = run(scheduler.submit([[1, 2], [3], [4] * 40], MEAN))
    assert sorted(counts.batches) == [(1, 40, 40), (2, 3, 32)]  # a long text alone fills what it is given
    assert submission.queue_s >= 0
    assert submission.compute_s > 0
