"""Lines over 256 KiB: they wait for memory, have it until they are written, and do not keep their batch from ending."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from gguf_embed.batch.batches import Batches
from gguf_embed.batch.lines import LineReply, LineRequest
from tests.batch.world import LIMITS, URL, at_once, create, ended, entries, lines, never, until, upload


def large_line(name: str) -> bytes:
    line = {"custom_id": name, "method": "POST", "url": URL, "body": {"input": ["text"] * 50_000}}
    return json.dumps(line).encode() + b"\n"


def test_a_large_line_takes_memory_until_it_is_written(world):
    used: list[int] = []

    async def measured(request: LineRequest) -> LineReply:
        used.append(world.memory.used_bytes)
        return await at_once(request)

    async def scenario(batches: Batches) -> None:
        content = b"".join([lines(1), large_line("a"), large_line("b"), lines(2).splitlines(keepends=True)[1]])
        over = await ended(batches, (await create(batches, await upload(batches, content))).id)
        assert (over.status, over.n_completed) == ("completed", 4)
        assert used[1:] == [2 * len(large_line("a")), 2 * len(large_line("b")), 0]
        assert world.memory.used_bytes == 0

    world.reply = measured
    world.limits = replace(LIMITS, max_inputs=None)
    world.life(scenario)


@pytest.mark.parametrize("end", ["completed", "cancelled", "expired"])
def test_a_large_line_waits_for_memory_and_its_batch_can_end_meanwhile(world, end):
    async def scenario(batches: Batches) -> None:
        await world.memory.large.take(world.memory.large.limit_bytes)
        file_id = await upload(batches, lines(1) + large_line("a"))
        batch = await create(batches, file_id, window_s=3600)

        async def is_waiting() -> bool:
            return world.memory.n_waiting == 1

        await until(is_waiting)
        assert (await batches.batch("", batch.id)).status == "validating"
        if end == "completed":
            world.memory.large.give_back(world.memory.large.limit_bytes)
        elif end == "cancelled":
            await batches.cancel("", batch.id)
        else:
            world.now_s += 3600
        assert (await ended(batches, batch.id)).status == end
        assert world.memory.n_waiting == 0

    world.limits = replace(LIMITS, max_inputs=None)
    world.life(scenario)


def test_lines_that_are_left_are_named_however_large_they_are(world):
    async def scenario(batches: Batches) -> None:
        batch = await create(batches, await upload(batches, lines(1) + large_line("a") + large_line("b")))

        async def is_running() -> bool:
            return bool(world.asked)

        await until(is_running)
        await batches.cancel("", batch.id)
        over = await ended(batches, batch.id)
        assert [entry["custom_id"] for entry in await entries(batches, over.error_file_id)] == ["0", "a", "b"]
        assert world.memory.used_bytes == 0

    world.reply = never
    world.limits = replace(LIMITS, max_inputs=None)
    world.life(scenario)
