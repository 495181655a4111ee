"""Batches from creation to their end, with a clock and answers of the tests' own. No process, no model."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import pytest

from gguf_embed.batch.batches import Batches
from gguf_embed.batch.errors import InUse, NoSuchObject, StorageFull
from gguf_embed.batch.lines import LineReply, LineRequest
from gguf_embed.errors import InvalidRequest, Overloaded, PayloadTooLarge
from tests.batch.world import LIMITS, at_once, create, ended, entries, lines, never, until, upload


def test_a_batch_is_computed_in_the_order_of_its_lines(world):
    async def backwards(request: LineRequest) -> LineReply:
        await asyncio.sleep(0.0001 * (100 - request.number % 100))
        return LineReply(200 if request.number % 10 else 400, b"{}", 3, "model")

    async def scenario(batches: Batches) -> None:
        batch = await create(batches, await upload(batches, lines(1000)))
        assert batch.status == "validating"
        over = await ended(batches, batch.id)
        assert (over.status, over.n_requests, over.n_completed, over.n_failed) == ("completed", 1000, 900, 100)
        assert (over.n_tokens, over.model) == (2700, "model")
        output = await entries(batches, over.output_file_id)
        assert [int(entry["custom_id"]) for entry in output] == [n for n in range(1000) if (n + 1) % 10]
        errors = await entries(batches, over.error_file_id)
        assert [int(entry["custom_id"]) for entry in errors] == [n for n in range(1000) if (n + 1) % 10 == 0]

    world.reply = backwards
    world.life(scenario)


def test_a_server_that_stops_continues_where_it_was(world):
    ids: list[str] = []
    stop_after = 300

    async def some(request: LineRequest) -> LineReply:
        if request.number > stop_after:
            await asyncio.Event().wait()
        return await at_once(request)

    async def first(batches: Batches) -> None:
        ids.append((await create(batches, await upload(batches, lines(1000)))).id)

        async def is_far() -> bool:
            return (await batches.batch("", ids[0])).n_completed == stop_after

        await until(is_far)

    async def second(batches: Batches) -> None:
        over = await ended(batches, ids[0])
        assert (over.status, over.n_completed, over.n_tokens) == ("completed", 1000, 3000)
        assert [entry["custom_id"] for entry in await entries(batches, over.output_file_id)] == list(
            map(str, range(1000))
        )

    world.reply = some
    world.life(first)
    n_asked, world.reply = len(world.asked), at_once
    world.life(second)
    assert world.asked[:300] == [str(n) for n in range(300)]
    assert world.asked[n_asked:] == [str(n) for n in range(300, 1000)]


def test_a_crash_between_any_two_writes_of_the_end_is_repaired(world, monkeypatch):
    """Each life ends at the next write of the disk, from the one that makes files of the lines on."""
    ids: list[str] = []

    async def job_ends(batches: Batches) -> None:
        async def has_ended() -> bool:
            return not batches._jobs.is_running(ids[0])

        await until(has_ended)

    async def compute(batches: Batches) -> None:
        ids.append((await create(batches, await upload(batches, lines(20)))).id)
        await job_ends(batches)

    from gguf_embed.batch.store import Store

    real, n_allowed = {name: getattr(Store, name) for name in ("add_file", "save_batch")}, [3]
    n_crashes = 0

    def limited(name: str):
        def write(self: Store, *arguments: object) -> None:
            nonlocal n_crashes
            if n_allowed[0] == 0:
                n_crashes += 1
                raise StorageFull("a crash")
            n_allowed[0] -= 1
            real[name](self, *arguments)

        return write

    for name in real:
        monkeypatch.setattr(Store, name, limited(name))

    n_lives = 0
    world.life(compute)
    while True:
        n_allowed[0], n_lives = 1, n_lives + 1
        world.life(job_ends)
        stored = json.loads((world.folder / "batches" / f"{ids[0]}.json").read_bytes())
        if stored["status"] == "completed":
            break
        assert n_lives < 10
    assert n_lives >= 3
    assert n_crashes == n_lives  # each life but the last ended with one
    n_allowed[0] = 100

    async def check(batches: Batches) -> None:
        over = await batches.batch("", ids[0])
        assert len(await entries(batches, over.output_file_id)) == over.n_completed == 20
        assert len(await batches.files("")) == 2

    world.life(check)
    assert sorted(world.asked, key=int) == [str(n) for n in range(20)]


def test_a_batch_expires_by_the_clock_and_says_what_is_left(world):
    async def some(request: LineRequest) -> LineReply:
        if request.number > 10:
            await asyncio.Event().wait()
        return await at_once(request)

    async def scenario(batches: Batches) -> None:
        batch = await create(batches, await upload(batches, lines(25)), window_s=3600)

        async def is_far() -> bool:
            return (await batches.batch("", batch.id)).n_completed == 10

        await until(is_far)
        world.now_s += 3599
        await asyncio.sleep(0.05)
        assert (await batches.batch("", batch.id)).status == "in_progress"
        world.now_s += 1
        over = await ended(batches, batch.id)
        assert (over.status, over.expired_at, over.n_completed, over.n_failed) == ("expired", 1_003_600, 10, 0)
        assert len(await entries(batches, over.output_file_id)) == 10
        left = await entries(batches, over.error_file_id)
        assert [(entry["custom_id"], entry["response"], entry["error"]["code"]) for entry in left] == [
            (str(n), None, "batch_expired") for n in range(10, 25)
        ]

    world.reply = some
    world.life(scenario)


def test_a_batch_whose_window_passed_while_the_server_was_down_expires(world):
    ids: list[str] = []

    async def first(batches: Batches) -> None:
        ids.append((await create(batches, await upload(batches, lines(5)))).id)

        async def is_running() -> bool:
            return (await batches.batch("", ids[0])).status == "in_progress"

        await until(is_running)

    async def second(batches: Batches) -> None:
        assert (await ended(batches, ids[0])).status == "expired"

    world.reply = never
    world.life(first)
    world.now_s += 4000
    world.life(second)


def test_cancelling_drops_what_runs_and_keeps_what_is_done(world):
    dropped: list[str] = []

    async def some(request: LineRequest) -> LineReply:
        if request.number > 10:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                dropped.append(request.custom_id)
                raise
        return await at_once(request)

    async def scenario(batches: Batches) -> None:
        file_id = await upload(batches, lines(25))
        batch = await create(batches, file_id)

        async def is_far() -> bool:
            return (await batches.batch("", batch.id)).n_completed == 10

        await until(is_far)
        with pytest.raises(InUse):
            await batches.delete_file("", file_id)
        assert (await batches.cancel("", batch.id)).status == "cancelling"
        assert (await batches.cancel("", batch.id)).status in ("cancelling", "cancelled")
        over = await ended(batches, batch.id)
        assert (over.status, over.n_completed) == ("cancelled", 10)
        assert {entry["error"]["code"] for entry in await entries(batches, over.error_file_id)} == {"batch_cancelled"}
        assert len(dropped) == 15
        with pytest.raises(InvalidRequest, match="cancelled"):
            await batches.cancel("", batch.id)
        await batches.delete_file("", file_id)

    world.reply = some
    world.life(scenario)


def test_a_line_waits_while_the_queue_is_full(world):
    tries: dict[int, int] = {}

    async def busy(request: LineRequest) -> LineReply:
        tries[request.number] = tries.get(request.number, 0) + 1
        if tries[request.number] == 1 and request.number == 2:
            return LineReply(503, b"full", retry_after_s=0.01)
        return await at_once(request)

    async def scenario(batches: Batches) -> None:
        over = await ended(batches, (await create(batches, await upload(batches, lines(3)))).id)
        assert (over.status, over.n_completed, tries[2]) == ("completed", 3, 2)

    world.reply = busy
    world.life(scenario)


def test_a_batch_without_room_for_its_output_fails_and_keeps_what_it_has(world):
    world.limits = replace(LIMITS, max_total_bytes=60_000)

    async def large(request: LineRequest) -> LineReply:
        await asyncio.sleep(0.01 * request.number)
        return LineReply(200, b'"' + b"x" * 3000 + b'"', 1)

    async def scenario(batches: Batches) -> None:
        over = await ended(batches, (await create(batches, await upload(batches, lines(50)))).id)
        assert (over.status, [error.code for error in over.errors]) == ("failed", ["storage_limit_exceeded"])
        assert 0 < over.n_completed < 20
        assert len(await entries(batches, over.output_file_id)) == over.n_completed

    world.reply = large
    world.life(scenario)


def test_uploads_have_limits_and_leave_nothing_behind(world):
    world.limits = replace(LIMITS, max_total_bytes=20_000, max_file_bytes=10_000, max_files=2)

    async def scenario(batches: Batches) -> None:
        with pytest.raises(PayloadTooLarge, match="10,000"):
            await upload(batches, b"x" * 10_001)
        kept = await upload(batches, b"x" * 9_000)
        with pytest.raises(StorageFull, match="--batch-max-bytes"):
            await upload(batches, b"x" * 9_000)
        assert len(list((world.folder / "files").iterdir())) == 2
        await upload(batches, b"x")
        with pytest.raises(StorageFull, match="2 files"):
            await upload(batches, b"x")
        await batches.delete_file("", kept)
        await upload(batches, b"x" * 9_000)

    world.life(scenario)


def test_a_key_has_a_number_of_batches_and_sees_only_its_own(world):
    world.limits = replace(LIMITS, max_active=2)

    async def scenario(batches: Batches) -> None:
        mine, theirs = await upload(batches, lines(1), "a"), await upload(batches, lines(1), "b")
        first = await create(batches, mine, "a")
        await create(batches, mine, "a")
        with pytest.raises(Overloaded, match="2 batches"):
            await create(batches, mine, "a")
        await create(batches, theirs, "b")
        assert [file.id for file in await batches.files("a")] == [mine]
        assert len(await batches.batches("a")) == 2
        with pytest.raises(InvalidRequest, match=theirs):
            await create(batches, theirs, "a")
        for call in (batches.file, batches.content, batches.delete_file):
            with pytest.raises(NoSuchObject):
                await call("a", theirs)
        for call in (batches.batch, batches.cancel):
            with pytest.raises(NoSuchObject):
                await call("b", first.id)

    world.reply = never
    world.life(scenario)


async def end_three_of_which_two_are_kept(batches: Batches) -> str:
    """One after the other, of the owner "a". Returns their input."""
    file_id = await upload(batches, lines(1), "a")
    ids = []
    for _ in range(3):
        ids.append((await create(batches, file_id, "a")).id)
        await ended(batches, ids[-1], "a")
    assert [batch.id for batch in await batches.batches("a")] == [ids[2], ids[1]]
    return file_id


def test_the_oldest_batch_that_is_over_gives_way(world):
    world.limits = replace(LIMITS, max_batches=2)

    async def scenario(batches: Batches) -> None:
        await end_three_of_which_two_are_kept(batches)
        with pytest.raises(StorageFull, match="2 batches"):
            await create(batches, await upload(batches, lines(1), "b"), "b")

    world.life(scenario)


def test_one_of_several_owners_has_half_of_the_batches_at_most(world):
    world.limits = replace(LIMITS, max_batches=4)

    async def scenario(batches: Batches) -> None:
        await ended(batches, (await create(batches, await upload(batches, lines(1), "b"), "b")).id, "b")
        file_id = await end_three_of_which_two_are_kept(batches)
        world.reply = never
        for _ in range(2):
            await create(batches, file_id, "a")
        with pytest.raises(StorageFull, match="this key has 2 batches"):
            await create(batches, file_id, "a")

    world.life(scenario)


def test_expired_files_are_gone_at_once_and_then_deleted(world):
    ids: list[str] = []

    async def first(batches: Batches) -> None:
        ids.append(await upload(batches, lines(1), kept_s=100))
        ids.append((await create(batches, ids[0])).id)
        over = await ended(batches, ids[1])
        assert over.output_file_id is not None
        ids.append(over.output_file_id)
        world.now_s += 100
        with pytest.raises(NoSuchObject):
            await batches.file("", ids[0])
        assert [file.id for file in await batches.files("")] == ids[2:]

    async def second(batches: Batches) -> None:
        path = world.folder / "files" / f"{ids[0]}.data"

        async def is_gone() -> bool:
            return not path.exists()

        await until(is_gone)
        assert (await batches.batch("", ids[1])).status == "completed"

    async def third(batches: Batches) -> None:
        async def is_empty() -> bool:
            return not await batches.batches("") and not await batches.files("")

        await until(is_empty)

    world.life(first)
    world.life(second)
    world.now_s += LIMITS.kept_s
    world.life(third)
    assert list((world.folder / "files").iterdir()) == list((world.folder / "batches").iterdir()) == []


def test_an_input_that_disappears_fails_its_batch(world):
    async def scenario(batches: Batches) -> None:
        file_id = await upload(batches, lines(1))
        (await batches.content("", file_id)).unlink()
        over = await ended(batches, (await create(batches, file_id)).id)
        assert (over.status, [error.code for error in over.errors]) == ("failed", ["input_file_unreadable"])

    world.life(scenario)


def test_a_fault_of_our_own_fails_the_batch_and_not_the_server(world, caplog):
    async def broken(request: LineRequest) -> LineReply:
        raise RuntimeError("a fault")

    async def scenario(batches: Batches) -> None:
        over = await ended(batches, (await create(batches, await upload(batches, lines(3)))).id)
        assert (over.status, [error.code for error in over.errors]) == ("failed", ["internal_error"])
        world.reply = at_once
        assert (await ended(batches, (await create(batches, await upload(batches, lines(3)))).id)).status == "completed"

    world.reply = broken
    world.life(scenario)
    assert "a fault" in caplog.text


def test_nothing_is_written_before_the_first_use(world):
    async def scenario(batches: Batches) -> None:
        assert not world.folder.exists()

    world.life(scenario)
    assert not world.folder.exists()
