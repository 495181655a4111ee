"""The memory for bodies: first come, first served, and given back whatever happens."""

from __future__ import annotations

import asyncio

import pytest

from gguf_embed.errors import Overloaded
from gguf_embed.server.http import body_memory
from gguf_embed.server.http.body_memory import BodyMemory


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
