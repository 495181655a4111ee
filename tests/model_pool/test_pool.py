"""The model pool: models are loaded on first use and unloaded when idle, never while in use, each independently."""

import asyncio
import heapq
import itertools
import math
import threading

import pytest

from gguf_embed.config import PoolConfig, PoolLimits
from gguf_embed.errors import ModelLoadFailed, Unavailable, WayOut
from gguf_embed.metrics import Metrics
from gguf_embed.model_pool.entry import LoadRequest
from gguf_embed.model_pool.pool import EVICTION_TIMEOUT_S, ModelPool
from gguf_embed.types import LoadOptions
from tests.model_pool.fake_models import FakeLoader, make_spec

A, B, C = make_spec("a"), make_spec("b"), make_spec("c")


class FakeTimer:
    def __init__(self, action):
        self.action = action

    def cancel(self):
        self.action = None


class FakeTime:
    """A clock that moves only when told to, and the timers that go by it."""

    def __init__(self):
        self.now_s = 0.0
        self._timers = []  # heap of (time, number, timer)
        self._numbers = itertools.count()

    def clock(self):
        return self.now_s

    def start_timer(self, delay_s, action):
        timer = FakeTimer(action)
        heapq.heappush(self._timers, (self.now_s + delay_s, next(self._numbers), timer))
        return timer

    async def advance(self, seconds):
        """Fire the timers that end in this time, one after the other; tasks settle before and after each."""
        end_s = self.now_s + seconds
        await settle()
        while self._timers and self._timers[0][0] <= end_s:
            self.now_s, _, timer = heapq.heappop(self._timers)
            if timer.action is not None:
                timer.action()
                await settle()
        self.now_s = end_s


async def settle():
    """Let every task go on until it waits for a timer, a thread or a lease."""
    for _ in range(10):
        await asyncio.sleep(0)


def run(scenario, loader=None, keep_alive_s=math.inf, **limits):
    """Run `scenario(pool, loader, time)`, then close the pool; nothing may be left open."""
    loader, time = loader or FakeLoader(), FakeTime()

    async def main():
        pool = ModelPool(
            loader, PoolConfig(PoolLimits(**limits), keep_alive_s), Metrics(), time.clock, time.start_timer
        )
        try:
            await asyncio.wait_for(scenario(pool, loader, time), 20)
        finally:
            for gate in loader.gates.values():
                gate.set()
            await pool.close()
        assert pool.loaded() == []

    asyncio.run(main())
    for engine in loader.engines:
        assert engine.n_open_contexts == 0
    return loader


async def use(pool, spec, wish=None):
    async with pool.lease(spec, wish or LoadRequest()) as lease:
        return lease


async def until(loader, condition):
    """Wait for the threads that load and close models."""
    await asyncio.to_thread(loader.wait_until, condition)


def test_a_model_is_loaded_once_however_many_ask():
    loader = FakeLoader(gates={"a": threading.Event()})

    async def scenario(pool, loader, time):
        asking = [asyncio.create_task(use(pool, A)) for _ in range(20)]
        await time.advance(3)
        loader.gates["a"].set()
        leases = await asyncio.gather(*asking)
        assert len({id(lease.model) for lease in leases}) == 1
        assert {lease.load_s for lease in leases} == {3}
        assert (await use(pool, A)).load_s == 0

    assert run(scenario, loader).loads == ["a"]


def test_a_request_never_waits_behind_another_models_load():
    loader = FakeLoader(gates={"b": threading.Event()})

    async def scenario(pool, loader, time):
        slow = asyncio.create_task(use(pool, B))
        await use(pool, A)  # would hang until the gate opens
        assert not slow.done()
        assert pool.status(B).state == "loading"
        loader.gates["b"].set()
        await slow

    run(scenario, loader)


def test_a_failed_load_answers_everyone_and_the_next_request_tries_again():
    loader = FakeLoader(failing={"a"}, gates={"a": threading.Event()})

    async def scenario(pool, loader, time):
        waiting = [asyncio.create_task(use(pool, A)) for _ in range(5)]
        await until(loader, lambda: loader.loads == ["a"])
        loader.gates["a"].set()
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
        assert all(isinstance(outcome, ModelLoadFailed) for outcome in outcomes)
        assert loader.loads == ["a"]
        assert "a.gguf: is broken" in outcomes[0].message
        assert "/models" not in outcomes[0].message
        loader.failing.clear()
        await use(pool, A)
        assert loader.loads == ["a", "a"]

    run(scenario, loader)


def test_the_least_recently_used_idle_model_makes_room():
    async def scenario(pool, loader, time):
        for spec in (A, B, A, C):
            await use(pool, spec)
            await time.advance(1)
        assert loader.closed == ["b"]
        assert {model.info.name for model in pool.loaded()} == {"a", "c"}

    run(scenario, max_models=2)


def test_a_model_in_use_never_leaves_and_who_needs_its_room_waits():
    async def scenario(pool, loader, time):
        async with pool.lease(A):
            waiting = asyncio.create_task(use(pool, B))
            await time.advance(EVICTION_TIMEOUT_S - 1)
            assert not waiting.done()
            assert pool.status(A).state == "loaded"
        await waiting
        assert loader.closed == ["a"]

    run(scenario, max_models=1)


def test_waiting_for_room_has_an_end():
    async def scenario(pool, loader, time):
        async with pool.lease(A):
            waiting = asyncio.create_task(use(pool, B))
            await time.advance(EVICTION_TIMEOUT_S)
            with pytest.raises(Unavailable, match=r"after 60 s") as caught:
                await waiting
            assert {WayOut.RETRY, WayOut.MORE_MODELS} <= set(caught.value.ways_out)

    run(scenario, max_models=1)


def test_room_that_is_too_small_does_not_extend_the_wait():
    large = make_spec("large", size_bytes=150 * 2**20)

    async def scenario(pool, loader, time):
        async with pool.lease(A):
            async with pool.lease(B):
                waiting = asyncio.create_task(use(pool, large))
                await time.advance(EVICTION_TIMEOUT_S - 1)
            await time.advance(1)  # B is idle, but its room would not do
            with pytest.raises(Unavailable, match=r"after 60 s"):
                await waiting
        assert loader.closed == []

    run(scenario, max_bytes=300 * 2**20)


def test_a_model_larger_than_the_limit_is_refused():
    async def scenario(pool, loader, time):
        with pytest.raises(Unavailable, match=r"'a' takes about 96 MiB, .* is 10 MiB$") as caught:
            await use(pool, A)
        assert caught.value.ways_out == (WayOut.MORE_MEMORY,)

    assert run(scenario, max_bytes=10 * 2**20).loads == []


def test_memory_makes_models_leave_as_well():
    async def scenario(pool, loader, time):
        for spec in (A, B):
            await use(pool, spec)
        assert loader.closed == ["a"]

    run(scenario, max_bytes=150 * 2**20)


@pytest.mark.parametrize(("server_s", "request_s"), [(20, None), (math.inf, 20)])
def test_an_idle_model_leaves_when_its_time_is_up(server_s, request_s):
    async def scenario(pool, loader, time):
        await use(pool, A, LoadRequest(keep_alive_s=request_s))
        await time.advance(19)
        assert pool.status(A).state == "loaded"
        await time.advance(1)
        assert pool.status(A).state == "unloaded"
        await until(loader, lambda: loader.closed == ["a"])

    run(scenario, keep_alive_s=server_s)


@pytest.mark.parametrize(("server_s", "request_s"), [(0, None), (math.inf, 0)])
def test_without_a_keep_alive_a_model_leaves_after_the_request(server_s, request_s):
    async def scenario(pool, loader, time):
        await use(pool, A, LoadRequest(keep_alive_s=request_s))
        assert pool.status(A).state == "unloaded"
        await until(loader, lambda: loader.closed == ["a"])

    run(scenario, keep_alive_s=server_s)


def test_a_model_stays_while_it_is_used_however_short_its_time():
    async def scenario(pool, loader, time):
        await use(pool, A)
        async with pool.lease(A):
            await time.advance(100)
            assert pool.status(A).state == "loaded"
        await time.advance(9)
        assert pool.status(A).state == "loaded"
        await time.advance(1)
        assert pool.status(A).state == "unloaded"

    run(scenario, keep_alive_s=10)


def test_each_request_starts_the_time_anew():
    async def scenario(pool, loader, time):
        for _ in range(5):
            await use(pool, A)
            await time.advance(9)
        assert pool.status(A).state == "loaded"
        await time.advance(1)
        assert pool.status(A).state == "unloaded"

    assert run(scenario, keep_alive_s=10).loads == ["a"]


@pytest.mark.parametrize(("first_s", "last_s"), [(30, math.inf), (math.inf, 30), (30, 10), (10, 30)])
def test_the_last_request_decides_how_long_a_model_stays(first_s, last_s):
    async def scenario(pool, loader, time):
        await use(pool, A, LoadRequest(keep_alive_s=first_s))
        await use(pool, A, LoadRequest(keep_alive_s=last_s))
        assert (pool.status(A).expires_unix_s is None) == math.isinf(last_s)
        await time.advance(min(last_s, 1000) - 1)
        assert pool.status(A).state == "loaded"
        await time.advance(1)
        assert pool.status(A).state == ("loaded" if math.isinf(last_s) else "unloaded")

    run(scenario)


def test_a_request_after_an_unload_loads_again():
    async def scenario(pool, loader, time):
        await use(pool, A)
        pool.unload("a")
        await use(pool, A)
        assert (loader.loads, loader.closed) == (["a", "a"], ["a"])

    run(scenario)


def test_other_options_reload_the_model_once_it_is_idle():
    async def scenario(pool, loader, time):
        async with pool.lease(A) as first:
            changed = asyncio.create_task(use(pool, A, LoadRequest(options=LoadOptions(n_threads=1))))
            await settle()
            assert not changed.done()
            assert first.model.config.compute.n_threads is None
        assert (await changed).model.config.compute.n_threads == 1
        kept = await use(pool, A)  # one without wishes takes it as it is
        assert kept.model.config.compute.n_threads == 1

    assert run(scenario).loads == ["a", "a"]


def test_a_changed_file_is_another_model():
    async def scenario(pool, loader, time):
        await use(pool, A)
        await use(pool, make_spec("a", version=2))
        assert loader.loads == ["a", "a"]

    run(scenario)


def test_a_model_whose_file_is_gone_leaves():
    async def scenario(pool, loader, time):
        await use(pool, A)
        await use(pool, B)
        pool.retain({"b"})
        await until(loader, lambda: loader.closed == ["a"])
        assert pool.status(B).state == "loaded"

    run(scenario)


def test_clients_that_leave_while_it_loads_leave_nothing_behind():
    loader = FakeLoader(gates={"a": threading.Event()})

    async def scenario(pool, loader, time):
        unloading = asyncio.create_task(use(pool, A))
        await until(loader, lambda: loader.loads == ["a"])
        unloading.cancel()
        await asyncio.gather(unloading, return_exceptions=True)
        loader.gates["a"].set()
        await until(loader, lambda: loader.closed == ["a"])  # its keep_alive is 0 and nobody holds it
        assert pool.status(A).state == "unloaded"

    run(scenario, loader, keep_alive_s=0.0)


def test_looking_wakes_nothing():
    async def scenario(pool, loader, time):
        assert pool.status(A).state == "unloaded"
        assert pool.info(A) is A.info

    assert run(scenario).loads == []


def test_facts_from_loading_are_remembered():
    async def scenario(pool, loader, time):
        assert pool.status(A).info.n_vocab == 1000
        await use(pool, A, LoadRequest(keep_alive_s=0.0))
        await until(loader, lambda: loader.closed == ["a"])
        assert pool.status(A).info.n_vocab == 258

    run(scenario)


def test_nothing_is_loaded_once_it_is_closed():
    loader = FakeLoader()

    async def main():
        pool = ModelPool(loader, PoolConfig(), Metrics())
        await use(pool, A)
        await pool.close()
        with pytest.raises(Unavailable):
            await use(pool, A)

    asyncio.run(main())
    assert loader.closed == ["a"]


def test_a_stop_waits_for_a_load_and_frees_it():
    loader = FakeLoader(gates={"a": threading.Event()})

    async def main():
        pool = ModelPool(loader, PoolConfig(), Metrics())
        using = asyncio.create_task(use(pool, A))
        await until(loader, lambda: loader.loads == ["a"])
        closing = asyncio.create_task(pool.close())
        await settle()
        assert not closing.done()
        loader.gates["a"].set()
        await asyncio.gather(using, closing)

    asyncio.run(main())
    assert loader.closed == ["a"]


def test_hundreds_of_requests_for_more_models_than_fit_are_all_answered():
    specs = [make_spec(f"m{i}") for i in range(5)]

    async def scenario(pool, loader, time):
        async def one(i):
            async with pool.lease(specs[i % 5]) as lease:
                assert lease.model.info.name == f"m{i % 5}"
                for _ in range(i % 3):
                    await asyncio.sleep(0)
                submitted = await lease.model.scheduler.submit([[1, 2, 3]], lease.model.info.output)
                assert submitted.outputs[0].matrix.shape == (1, 8)

        await asyncio.gather(*(one(i) for i in range(300)))
        assert len(pool.loaded()) <= 2

    run(scenario, max_models=2)


def test_a_tiny_limit_is_named_in_bytes():
    async def scenario(pool, loader, time):
        with pytest.raises(Unavailable, match=r"limit for all models together is 1,024 bytes$"):
            await use(pool, A)

    run(scenario, max_bytes=1024)
