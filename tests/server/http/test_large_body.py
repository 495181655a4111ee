"""Large, compressed and chunked bodies over HTTP: answered alike, and waiting for memory."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from gguf_embed.server.context import SERVER_CONTEXT
from gguf_embed.server.http import body_memory
from gguf_embed.server.http.body_memory import MEDIUM_PART
from tests.server.fake_service import FakeService, Running, holding, serving

TEXTS = [f"text {n:07}" for n in range(2000)]
BODY = json.dumps({"input": TEXTS, "padding": "a, [b], " * 100_000}).encode()
MEDIUM = json.dumps({"input": "text", "padding": "a, [b], " * 10_000}).encode()


async def chunked(raw: bytes) -> AsyncIterator[bytes]:
    for begin in range(0, len(raw), 50_000):
        yield raw[begin : begin + 50_000]


async def post(running: Running, data: object, headers: dict[str, str]) -> tuple[int, bytes, dict[str, str]]:
    async with running.http.post(running.url + "/v1/embeddings", data=data, headers=headers) as reply:
        return reply.status, await reply.read(), dict(reply.headers)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while True:
            if condition():
                return
            await asyncio.sleep(0.01)


@asynccontextmanager
async def one_body_held() -> AsyncIterator[tuple[Running, asyncio.Task[tuple[int, bytes, dict[str, str]]]]]:
    """A server whose memory one large body takes, and the request with it, which is held until the gate is opened."""
    service = holding()
    async with serving(service, max_body_memory_bytes=3 * len(BODY)) as running:
        first = asyncio.create_task(post(running, BODY, {}))
        await service.entered.wait()
        yield running, first


@pytest.mark.parametrize("encoding", [None, "gzip", "identity", "utf-8"])
@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_large_body_is_read_in_any_form_and_its_memory_given_back(encoding, is_chunked):
    async def scenario():
        service = FakeService()
        async with serving(service, max_body_memory_bytes=4 * len(BODY), max_body_bytes=2 * len(BODY)) as running:
            raw = gzip.compress(BODY) if encoding == "gzip" else BODY
            headers = {"Content-Encoding": encoding} if encoding else {}
            status, reply, _ = await post(running, chunked(raw) if is_chunked else raw, headers)
            assert status == 200, reply
            assert service.requests[0].inputs == tuple(TEXTS)
            await asyncio.sleep(0.05)
            assert running.app[SERVER_CONTEXT].body_memory.used_bytes == 0

    asyncio.run(scenario())


def test_a_body_for_which_there_is_no_memory_waits_and_then_gets_a_429(monkeypatch):
    monkeypatch.setattr(body_memory, "MAX_WAIT_S", 0.3)

    async def scenario():
        async with one_body_held() as (running, first):
            status, reply, headers = await post(running, BODY, {})
            assert status == 429
            assert "--max-body-memory" in json.loads(reply)["error"]["message"]
            assert int(headers["Retry-After"]) >= 1
            small = asyncio.create_task(post(running, b'{"input": "small"}', {}))
            monkeypatch.setattr(body_memory, "MAX_WAIT_S", 30)
            second = asyncio.create_task(post(running, BODY, {}))
            await until(lambda: running.app[SERVER_CONTEXT].body_memory.n_waiting > 0)
            running.service.gate.set()
            assert [(await one)[0] for one in (first, second, small)] == [200, 200, 200]

    asyncio.run(scenario())


def test_a_client_that_leaves_while_its_body_waits_or_is_computed_gives_back():
    async def scenario():
        async with one_body_held() as (running, computed):
            memory = running.app[SERVER_CONTEXT].body_memory
            waiting = asyncio.create_task(post(running, BODY, {}))
            await until(lambda: memory.n_waiting > 0)
            for one in (waiting, computed):
                one.cancel()
            await until(lambda: memory.used_bytes == memory.n_waiting == 0)

    asyncio.run(scenario())


def test_a_decompression_bomb_is_a_413():
    async def scenario():
        async with serving(max_body_bytes=3_000_000) as running:
            status, reply, _ = await post(running, gzip.compress(b" " * 50_000_000), {"Content-Encoding": "gzip"})
            assert status == 413, reply
            await asyncio.sleep(0.05)
            assert running.app[SERVER_CONTEXT].body_memory.used_bytes == 0

    asyncio.run(scenario())


@pytest.mark.parametrize("encoding", [None, "gzip"])
@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_body_of_medium_size_is_counted_in_any_form_and_a_small_one_is_not(encoding, is_chunked):
    async def scenario():
        service = holding()
        async with serving(service) as running:
            memory = running.app[SERVER_CONTEXT].body_memory
            raw = gzip.compress(MEDIUM) if encoding else MEDIUM
            headers = {"Content-Encoding": encoding} if encoding else {}
            small = asyncio.create_task(post(running, b'{"input": "small"}', {}))
            await until(lambda: len(service.requests) == 1)
            assert memory.used_bytes == 0
            medium = asyncio.create_task(post(running, chunked(raw) if is_chunked else raw, headers))
            await until(lambda: len(service.requests) == 2)
            assert memory.used_bytes == memory.medium.used_bytes == 2 * len(MEDIUM)
            service.gate.set()
            assert [(await one)[0] for one in (small, medium)] == [200, 200]
            await until(lambda: memory.used_bytes == 0)

    asyncio.run(scenario())


def test_medium_bodies_wait_for_each_other_and_neither_for_large_ones_nor_small_ones_for_them(monkeypatch):
    monkeypatch.setattr(body_memory, "MAX_WAIT_S", 0.2)

    async def scenario():
        service = holding()
        async with serving(service, max_body_memory_bytes=MEDIUM_PART * 3 * len(MEDIUM)) as running:
            memory = running.app[SERVER_CONTEXT].body_memory
            large = asyncio.create_task(post(running, BODY, {}))
            await until(lambda: len(service.requests) == 1)
            full = memory.large.limit_bytes - memory.large.used_bytes
            await memory.large.take(full)
            medium = asyncio.create_task(post(running, MEDIUM, {}))
            await until(lambda: len(service.requests) == 2)
            assert (await post(running, MEDIUM, {}))[0] == 429
            monkeypatch.setattr(body_memory, "MAX_WAIT_S", 30)
            waiting = asyncio.create_task(post(running, MEDIUM, {}))
            await until(lambda: memory.medium.n_waiting == 1)
            small = asyncio.create_task(post(running, b'{"input": "small"}', {}))
            await until(lambda: len(service.requests) == 3)
            service.gate.set()
            assert [(await one)[0] for one in (large, medium, waiting, small)] == [200] * 4
            memory.large.give_back(full)

    asyncio.run(scenario())
