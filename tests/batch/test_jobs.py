"""Batches that wait for their turn or for a disk that failed still end."""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import pytest

from gguf_embed.batch.batches import Batches
from gguf_embed.batch.line_log import LineLog
from tests.batch.world import create, ended, entries, lines, never, until, upload


@pytest.mark.parametrize("end", ["cancelled", "expired"])
def test_a_batch_that_waits_for_its_turn_ends_while_others_run(world, end):
    async def scenario(batches: Batches) -> None:
        file_id = await upload(batches, lines(1))
        running = [await create(batches, file_id) for _ in range(4)]
        waiting = await create(batches, file_id, window_s=100)

        async def are_running() -> bool:
            return len(world.asked) == 4

        await until(are_running)
        assert (await batches.batch("", waiting.id)).status == "validating"
        if end == "cancelled":
            await batches.cancel("", waiting.id)
        else:
            world.now_s += 100
        assert (await ended(batches, waiting.id)).status == end
        assert {(await batches.batch("", batch.id)).status for batch in running} == {"in_progress"}

    world.reply = never
    world.life(scenario)


@dataclass
class FullDisk:
    """`sync` of lines fails while it is full."""

    is_full: bool = True
    n_failures: int = 0

    def sync(self, log: LineLog) -> None:
        if self.is_full:
            self.n_failures += 1
            raise OSError(errno.ENOSPC, "No space left on device")

    def has_failed(self, n: int) -> Callable[[], Awaitable[bool]]:
        async def has_failed() -> bool:
            return self.n_failures >= n

        return has_failed


@pytest.fixture
def full_disk(monkeypatch) -> FullDisk:
    disk = FullDisk()
    monkeypatch.setattr(LineLog, "sync", lambda log: disk.sync(log))
    return disk


def test_batches_whose_disk_failed_are_continued_after_a_pause_and_keep_no_turn(world, full_disk):
    async def scenario(batches: Batches) -> None:
        file_id = await upload(batches, lines(3))
        paused = [await create(batches, file_id) for _ in range(4)]
        await until(full_disk.has_failed(4))
        full_disk.is_full = False
        assert (await ended(batches, (await create(batches, file_id)).id)).status == "completed"
        assert {(await batches.batch("", batch.id)).is_over for batch in paused} == {False}
        world.now_s += 1
        for batch in paused:
            over = await ended(batches, batch.id)
            assert (over.status, over.n_completed) == ("completed", 3)
            assert len(await entries(batches, over.output_file_id)) == 3

    world.life(scenario)


@pytest.mark.parametrize("end", ["cancelled", "expired"])
def test_a_batch_that_pauses_can_be_cancelled_and_expires(world, full_disk, end):
    async def scenario(batches: Batches) -> None:
        batch = await create(batches, await upload(batches, lines(3)), window_s=3600)
        await until(full_disk.has_failed(1))
        full_disk.is_full = False
        if end == "cancelled":
            await batches.cancel("", batch.id)
        else:
            world.now_s += 3600
        assert (await ended(batches, batch.id)).status == end

    world.reply = never
    world.life(scenario)
