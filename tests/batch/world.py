"""A folder of batches with a clock, answers and memory of the tests' own. No process, no model."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from gguf_embed.batch.batches import Batches, NewBatch
from gguf_embed.batch.job import Work
from gguf_embed.batch.lines import LineReply, LineRequest
from gguf_embed.batch.records import Batch, BatchLimits
from gguf_embed.server.batch_lines import line_room, line_rules
from gguf_embed.server.http.body_memory import BodyMemories
from gguf_embed.types.caller import CALLER, Priority

URL = "/v1/embeddings"
LIMITS = BatchLimits(min_free_bytes=0)

Reply = Callable[[LineRequest], Awaitable[LineReply]]


async def at_once(request: LineRequest) -> LineReply:
    return LineReply(200, b'{"ok":true}', 3, "model")


async def never(request: LineRequest) -> LineReply:
    await asyncio.Event().wait()
    raise AssertionError


@dataclass
class World:
    """A folder, a clock, and what answers lines."""

    folder: Path
    reply: Reply = at_once
    limits: BatchLimits = LIMITS
    now_s: float = 1_000_000.0
    asked: list[str] = field(default_factory=list)
    memory: BodyMemories = field(default_factory=lambda: BodyMemories.of(2**26))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Batches]:
        """One life of a server."""

        async def answer(request: LineRequest, request_id: str) -> LineReply:
            assert CALLER.get().priority is Priority.BATCH
            self.asked.append(request.custom_id)
            return await self.reply(request)

        batches = Batches(self.folder, self.limits, clock=lambda: self.now_s, poll_s=0.01)
        rules = line_rules(frozenset({URL}), self.limits, room=line_room(self.memory))
        await batches.start(Work(lambda endpoint: rules, lambda batch: answer))
        try:
            yield batches
        finally:
            await batches.close()

    def life(self, scenario: Callable[[Batches], Awaitable[None]]) -> None:
        async def live() -> None:
            async with self.running() as batches:
                await scenario(batches)

        asyncio.run(asyncio.wait_for(live(), 60))


def lines(n: int) -> bytes:
    return b"".join(
        json.dumps({"custom_id": str(number), "method": "POST", "url": URL, "body": {"input": "x"}}).encode() + b"\n"
        for number in range(n)
    )


async def upload(batches: Batches, content: bytes, owner: str = "", kept_s: int = 10**6) -> str:
    begun = await batches.begin_upload(owner)
    try:
        await begun.write(content)
        return (await begun.finish("in.jsonl", "batch", kept_s)).id
    finally:
        await begun.abort()


async def create(batches: Batches, file_id: str, owner: str = "", window_s: int = 3600) -> Batch:
    return await batches.create(owner, NewBatch(URL, file_id, f"{window_s}s", window_s, output_kept_s=7200))


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    while not await condition():  # noqa: ASYNC110  # it polls, as a client does
        await asyncio.sleep(0.005)


async def ended(batches: Batches, batch_id: str, owner: str = "") -> Batch:
    async def is_over() -> bool:
        return (await batches.batch(owner, batch_id)).is_over

    await until(is_over)
    return await batches.batch(owner, batch_id)


async def entries(batches: Batches, file_id: str | None, owner: str = "") -> list[dict]:
    assert file_id is not None
    path = await batches.content(owner, file_id)
    return [json.loads(line) for line in path.read_bytes().splitlines()]
