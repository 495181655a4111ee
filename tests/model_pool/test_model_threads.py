"""Work on a thread is over before anybody may unload its model, whoever has gone."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref

import pytest

from gguf_embed.errors import EngineFailure, Overloaded, Unavailable
from gguf_embed.model_pool.model_threads import ModelThreads, Patience
from gguf_embed.preprocessing.abandoned import check_abandoned
from gguf_embed.types import CALLER, Caller, Priority


class Work:
    """Something that a thread does until it is let go."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.may_end = threading.Event()
        self.has_ended = threading.Event()

    def __call__(self) -> str:
        self.begun.set()
        assert self.may_end.wait(10)
        self.has_ended.set()
        return "done"


@pytest.fixture
def threads():
    opened = ModelThreads("test", 1)
    yield opened
    opened.close()


async def run_and_cancel_next(threads: ModelThreads) -> tuple[Work, Work, asyncio.Task[str]]:
    """Work that runs, work whose caller left before it began, and the first one's result."""
    first, second = Work(), Work()
    busy = asyncio.create_task(threads.run(first))
    await asyncio.to_thread(first.begun.wait, 10)
    waiter = asyncio.create_task(threads.run(second))
    await asyncio.sleep(0)
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    return first, second, busy


def test_a_cancelled_caller_waits_until_the_thread_has_ended(threads):
    async def scenario():
        work = Work()
        waiter = asyncio.create_task(threads.run(work))
        await asyncio.to_thread(work.begun.wait, 10)
        for _ in range(3):
            waiter.cancel()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert not waiter.done()
        work.may_end.set()
        with pytest.raises(asyncio.CancelledError):
            await waiter
        assert work.has_ended.is_set()

    asyncio.run(scenario())


def test_work_that_has_not_begun_is_dropped_with_its_waiter(threads):
    async def scenario():
        first, second, busy = await run_and_cancel_next(threads)
        first.may_end.set()
        assert await busy == "done"
        assert not second.begun.is_set()

    asyncio.run(scenario())


def test_an_error_reaches_the_caller_and_is_dropped_if_the_caller_was_cancelled(threads, caplog):
    async def scenario():
        work = Work()

        def fail() -> None:
            work()
            raise ValueError("no")

        waiter = asyncio.create_task(threads.run(fail))
        await asyncio.to_thread(work.begun.wait, 10)
        waiter.cancel()
        work.may_end.set()
        with pytest.raises(asyncio.CancelledError):
            await waiter
        with pytest.raises(ValueError, match="no"):
            await threads.run(fail)

    asyncio.run(scenario())
    assert not caplog.records


def test_work_that_never_ends_is_an_error_in_time_and_the_other_thread_goes_on():
    async def scenario():
        threads, stuck = ModelThreads("test", 2), Work()
        with pytest.raises(EngineFailure, match="tokenizing 4 characters took over 0 s"):
            await threads.run(stuck, Patience(0.1, "tokenizing 4 characters"))
        assert threads.n_lost() == 1
        idents = {await threads.run(threading.get_ident, Patience(5.0, "x")) for _ in range(5)}
        assert len(idents) == 1
        stuck.may_end.set()
        threads.close()

    asyncio.run(scenario())


def test_while_all_threads_are_lost_work_fails_at_once_and_later_they_are_back(threads):
    async def scenario():
        stuck, waiting = Work(), Work()
        hung = asyncio.create_task(threads.run(stuck, Patience(0.2, "x")))
        await asyncio.to_thread(stuck.begun.wait, 10)
        queued = asyncio.create_task(threads.run(waiting))
        with pytest.raises(EngineFailure, match="x took over"):
            await hung
        with pytest.raises(Unavailable, match="tokenizing earlier texts has not ended"):
            await queued
        with pytest.raises(Unavailable, match="tokenizing earlier texts has not ended"):
            await threads.run(waiting)
        assert not waiting.begun.is_set()
        stuck.may_end.set()
        async with asyncio.timeout(10):
            while threads.n_lost():  # noqa: ASYNC110  # the thread has no event for it
                await asyncio.sleep(0.01)
        assert await threads.run(lambda: "next") == "next"

    asyncio.run(scenario())


def test_the_wait_for_a_thread_is_not_held_against_the_work(threads):
    """Its model's tokenizer was blamed for the time that another text took."""

    async def scenario():
        first = Work()
        busy = asyncio.create_task(threads.run(first))
        await asyncio.to_thread(first.begun.wait, 10)
        queued = asyncio.create_task(threads.run(lambda: "next", Patience(0.2, "x")))
        await asyncio.sleep(0.5)
        assert not queued.done()
        first.may_end.set()
        assert await busy == "done"
        assert await queued == "next"

    asyncio.run(scenario())


def test_a_cancelled_caller_does_not_wait_for_ever(threads):
    async def scenario():
        stuck = Work()
        waiter = asyncio.create_task(threads.run(stuck, Patience(0.2, "x")))
        await asyncio.to_thread(stuck.begun.wait, 10)
        waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter
        assert threads.n_lost() == 1
        stuck.may_end.set()

    asyncio.run(scenario())


def test_closing_does_not_wait_for_a_lost_thread(threads):
    async def scenario():
        stuck = Work()
        with pytest.raises(EngineFailure):
            await threads.run(stuck, Patience(0.05, "x"))
        assert not threads.close()
        assert threads.n_lost() == 1
        with pytest.raises(Unavailable, match="being unloaded"):
            await threads.run(Work())
        stuck.may_end.set()
        threads.join()

    asyncio.run(scenario())


def test_work_that_becomes_overdue_while_the_threads_are_closed_ends_the_wait():
    """Its thread still gets to know that there is no more."""

    async def scenario():
        threads, stuck = ModelThreads("test", 1), Work()
        hung = asyncio.create_task(threads.run(stuck, Patience(0.3, "x")))
        await asyncio.to_thread(stuck.begun.wait, 10)
        assert not await asyncio.to_thread(threads.close)
        with pytest.raises(EngineFailure, match="x took over"):
            await hung
        stuck.may_end.set()
        await asyncio.wait_for(asyncio.to_thread(threads.join), 10)

    asyncio.run(scenario())


def test_an_idle_thread_keeps_no_work(threads):
    async def scenario():
        first, second, busy = await run_and_cancel_next(threads)
        kept = [weakref.ref(first), weakref.ref(second)]
        first.may_end.set()
        await busy
        del first, second, busy
        async with asyncio.timeout(10):
            while any(work() for work in kept):  # the thread has no event for it
                gc.collect()
                await asyncio.sleep(0.01)

    asyncio.run(scenario())


def test_work_whose_caller_has_gone_ends_at_its_next_text(threads):
    """Without this, a stop waited up to 17 s for texts of clients that had left."""
    n_tokenized = 0

    async def scenario():
        first = Work()

        def tokenize_all() -> None:
            nonlocal n_tokenized
            for _ in range(1000):
                check_abandoned()
                n_tokenized += 1
                first()

        waiter = asyncio.create_task(threads.run(tokenize_all))
        await asyncio.to_thread(first.begun.wait, 10)
        waiter.cancel()
        await asyncio.sleep(0)
        first.may_end.set()
        with pytest.raises(asyncio.CancelledError):
            await waiter
        return await threads.run(check_abandoned)  # the next work of the same thread is not abandoned

    asyncio.run(scenario())
    assert n_tokenized == 1


def test_callers_take_turns_and_urgent_ones_come_first(threads):
    """One client's long requests held up those of all others."""
    done: list[str] = []

    async def ask(client: str, priority: Priority = Priority.NORMAL) -> None:
        CALLER.set(Caller(client, priority))
        await threads.run(lambda: done.append(client), cost=1000)

    async def scenario():
        first = Work()
        busy = asyncio.create_task(threads.run(first))
        await asyncio.to_thread(first.begun.wait, 10)
        asked = [asyncio.create_task(ask("many")) for _ in range(4)]
        asked += [asyncio.create_task(ask("job", Priority.BATCH)), asyncio.create_task(ask("one"))]
        asked += [asyncio.create_task(ask("urgent", Priority.HIGH))]
        await asyncio.sleep(0)
        assert threads.n_waiting == 7
        first.may_end.set()
        await asyncio.gather(busy, *asked)

    asyncio.run(scenario())
    assert done == ["urgent", "many", "one", "many", "many", "many", "job"]
    assert threads.n_waiting == 0


def test_who_has_waited_too_long_for_a_thread_is_told_when_to_come_back(threads):
    async def refused(cost: int) -> float:
        with pytest.raises(Overloaded, match="busy with other texts") as failure:
            await threads.run(Work(), Patience(60.0, "x", wait_s=0.05), cost)
        assert threads.n_waiting == 0
        return failure.value.retry_after_s

    async def scenario():
        first = Work()
        busy = asyncio.create_task(threads.run(first, Patience(60.0, "x", wait_s=0.05), 1000))
        await asyncio.to_thread(first.begun.wait, 10)
        assert await refused(1) >= 0.05  # nothing was done yet while somebody waited, so it may take as long again
        waiting = asyncio.create_task(threads.run(lambda: "next", cost=10))
        await asyncio.sleep(0.2)
        first.may_end.set()  # it has run for longer than anybody may wait
        assert await busy == "done"
        assert await waiting == "next"
        second = Work()
        busy = asyncio.create_task(threads.run(second))
        await asyncio.to_thread(second.begun.wait, 10)
        told = [await refused(10_000) for _ in range(2)]
        assert told[1] - told[0] > 1  # 10,000 more, at no more than 1,000 in half a second
        second.may_end.set()
        await busy

    asyncio.run(scenario())
