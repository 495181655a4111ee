"""The memory for bodies: first come, first served, and given back whatever happens."""

from __future__ import annotations

import asyncio

import pytest

from gguf_embed.errors import Overloaded
from gguf_embed.server.http import body_memory
from gguf_embed.server.http.body_memory import GUESSED_RETRY_S, BodyMemory


def test_bodies_wait_in_order_until_there_is_room():
    async def scenario():
        memory, taken = BodyMemory(100), []

        async def take(name: str, n_bytes: int) -> None:
            await memory.take(n_bytes)
            taken.append(name)

        await take("first", 60)
        waiting = [asyncio.create_task(take("large", 50)), asyncio.create_task(take("small", 10))]
        await asyncio.sleep(0)
        assert (taken, memory.n_waiting) == (["first"], 2)  # the small one would fit, but does not overtake
        memory.give_back(60)
        await asyncio.gather(*waiting)
        assert (taken, memory.used_bytes, memory.n_waiting) == (["first", "large", "small"], 60, 0)

    asyncio.run(scenario())


def test_one_that_leaves_lets_the_next_one_pass():
    async def scenario():
        memory = BodyMemory(100)
        await memory.take(60)
        large, small = asyncio.create_task(memory.take(50)), asyncio.create_task(memory.take(40))
        await asyncio.sleep(0)
        large.cancel()
        await small
        assert (memory.used_bytes, memory.n_waiting) == (100, 0)
        with pytest.raises(asyncio.CancelledError):
            await large

    asyncio.run(scenario())


def test_one_that_leaves_at_the_moment_it_is_served_gives_back():
    async def scenario():
        memory = BodyMemory(100)
        await memory.take(100)
        second = asyncio.create_task(memory.take(100))
        await asyncio.sleep(0)
        memory.give_back(100)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        assert memory.used_bytes == 0

    asyncio.run(scenario())


def test_a_wait_that_is_too_long_is_a_429(monkeypatch):
    monkeypatch.setattr(body_memory, "MAX_WAIT_S", 0.01)

    async def scenario():
        memory = BodyMemory(100)
        await memory.take(100)
        with pytest.raises(Overloaded, match="take the 100 bytes"):
            await memory.take(1)
        assert (memory.used_bytes, memory.n_waiting) == (100, 0)
        monkeypatch.setattr(body_memory, "MAX_WAITING", 0)
        with pytest.raises(Overloaded):
            await memory.take(1)

    asyncio.run(scenario())


def test_refused_bodies_are_told_when_there_will_be_room_one_after_the_other(monkeypatch):
    monkeypatch.setattr(body_memory, "MAX_WAITING", 2)
    now_s = 0.0

    async def refused(memory: BodyMemory, n_bytes: int) -> float:
        with pytest.raises(Overloaded) as failure:
            await memory.take(n_bytes)
        return failure.value.retry_after_s

    async def scenario():
        nonlocal now_s
        memory = BodyMemory(100, lambda: now_s)
        for _ in range(10):
            await memory.take(10)
        waiting = [asyncio.create_task(memory.take(50)) for _ in range(2)]
        await asyncio.sleep(0)
        assert await refused(memory, 50) == GUESSED_RETRY_S  # nothing was given back yet
        for _ in range(4):
            now_s += 5
            memory.give_back(10)
        told = [await refused(memory, 20) for _ in range(3)]
        # 60 are held and 100 wait for them; 2 are given back per second
        assert told == pytest.approx([40, 50, 60], rel=0.2)
        assert told[0] < told[1] < told[2]
        memory.give_back(60)
        await asyncio.gather(*waiting)

    asyncio.run(scenario())
