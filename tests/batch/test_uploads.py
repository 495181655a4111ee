"""Uploads and deletions that are interrupted or meet each other: nothing is left behind, written elsewhere or lost."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from gguf_embed.batch.batches import Batches
from gguf_embed.batch.errors import InUse, NoSuchObject, StorageFailed, StorageFull
from gguf_embed.batch.ledger import Ledger
from gguf_embed.batch.line_log import LineLog, Results
from gguf_embed.batch.lines import LineReply, LineRequest
from gguf_embed.batch.store import Store, open_store
from gguf_embed.batch.upload import PIECE_BYTES, Upload
from gguf_embed.errors import InvalidRequest
from tests.batch.world import LIMITS, URL, World, create, lines, upload

KEY = "0123456789abcdef" * 2


def with_ledger(folder: Path, scenario: Callable[[Ledger], Awaitable[None]]) -> None:
    async def live() -> None:
        ledger = Ledger(open_store(folder, LIMITS), lambda: 1_000_000.0)
        try:
            await scenario(ledger)
        finally:
            await ledger.close()

    asyncio.run(asyncio.wait_for(live(), 60))


@contextmanager
def busy_disk(ledger: Ledger) -> Iterator[None]:
    """The thread of the disk does nothing else until the end."""
    free = threading.Event()
    ledger._disk.submit(free.wait)
    try:
        yield
    finally:
        free.set()


async def as_far_as_possible() -> None:
    """Let tasks run until they wait for a thread."""
    for _ in range(20):
        await asyncio.sleep(0)


def test_a_write_that_outlives_its_upload_goes_nowhere_else(tmp_path, monkeypatch):
    """A descriptor that is closed meanwhile may be that of another file or a connection."""
    real, began, may_write, wrote = os.write, threading.Event(), threading.Event(), threading.Event()

    def slow(handle: int, content: bytes) -> int:
        began.set()
        may_write.wait()
        try:
            return real(handle, content)
        finally:
            wrote.set()

    async def scenario(ledger: Ledger) -> None:
        begun = await Upload.begin(ledger, "", 2**30)
        monkeypatch.setattr(os, "write", slow)
        writing = asyncio.create_task(begun.write(b"x" * PIECE_BYTES))
        await asyncio.to_thread(began.wait)
        writing.cancel()
        aborting = asyncio.create_task(begun.abort())
        await as_far_as_possible()
        with (tmp_path / "another").open("wb") as another:
            may_write.set()
            await asyncio.to_thread(wrote.wait)
            await aborting
            assert os.fstat(another.fileno()).st_size == 0
        assert list((ledger.store.folder / "files").iterdir()) == []
        assert ledger.store.space.used_bytes == 0

    with_ledger(tmp_path / "batches", scenario)


def test_an_upload_that_is_cancelled_while_it_begins_leaves_nothing(tmp_path):
    async def scenario(ledger: Ledger) -> None:
        opened: list[int] = []
        with pytest.MonkeyPatch.context() as patch:
            real_open, real_close = os.open, os.close
            patch.setattr(os, "open", lambda *given: opened.append(real_open(*given)) or opened[-1])
            patch.setattr(os, "close", lambda handle: (opened.remove(handle), real_close(handle)))
            with busy_disk(ledger):
                beginning = asyncio.create_task(Upload.begin(ledger, "", 100))
                await as_far_as_possible()
                beginning.cancel()
                await as_far_as_possible()
            await asyncio.gather(beginning, return_exceptions=True)
            await ledger.on_disk(int)  # what came before has ended
        assert beginning.cancelled()
        assert opened == list((ledger.store.folder / "files").iterdir()) == []
        assert ledger.store.space.used_bytes == 0

    with_ledger(tmp_path, scenario)


def test_an_upload_whose_record_cannot_be_written_leaves_nothing(tmp_path, monkeypatch):
    real = Store._write

    def broken(self: Store, path: Path, content: bytes) -> None:
        real(self, path, content)
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Store, "_write", broken)

    async def scenario(ledger: Ledger) -> None:
        begun = await Upload.begin(ledger, "", 100)
        await begun.write(b"x" * 100)
        with pytest.raises(StorageFailed):
            await begun.finish("in.jsonl", "batch", 100)
        await begun.abort()
        assert list((ledger.store.folder / "files").iterdir()) == []
        assert (ledger.store.files, ledger.store.space.used_bytes) == ({}, 0)

    with_ledger(tmp_path, scenario)


def test_a_batch_whose_record_cannot_be_written_leaves_nothing(tmp_path, monkeypatch):
    async def scenario(batches: Batches) -> None:
        file_id = await upload(batches, lines(1))
        used = batches.stored().used_bytes

        def broken(self: Store, path: Path, content: bytes) -> None:
            path.write_bytes(content)
            raise OSError(errno.EIO, "Input/output error")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Store, "_write", broken)
            with pytest.raises(StorageFailed):
                await create(batches, file_id)
        assert batches.stored().used_bytes == used
        assert list((tmp_path / "batches").iterdir()) == []

    World(tmp_path).life(scenario)


def test_lines_that_cannot_be_appended_take_no_space(tmp_path, monkeypatch):
    store = open_store(tmp_path, LIMITS)
    results, taken = Results(tmp_path / "output", tmp_path / "errors", KEY), partial(store.space.taken, "a")
    request = LineRequest(1, "a", URL, {})

    def broken(log: LineLog, content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(LineLog, "append", broken)
    with pytest.raises(OSError, match="No space"):
        results.write([(request, LineReply(200, b"{}"))], taken)
    with pytest.raises(OSError, match="No space"):
        results.write_left([request], "code", "message", taken)
    assert store.space.used_bytes == 0
    results.close()
    store.close()


def test_two_deletions_at_once(tmp_path):
    async def scenario(batches: Batches) -> None:
        file_id = await upload(batches, lines(1))
        assert batches._ledger is not None
        with busy_disk(batches._ledger):
            deletions = [asyncio.create_task(batches.delete_file("", file_id)) for _ in range(2)]
            await as_far_as_possible()
        outcomes = await asyncio.gather(*deletions, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [type(None), NoSuchObject]
        assert batches.stored().used_bytes == 0

    World(tmp_path).life(scenario)


@pytest.mark.parametrize("created_first", [True, False])
def test_a_file_is_not_deleted_while_a_batch_of_it_is_created(tmp_path, created_first):
    async def scenario(batches: Batches) -> None:
        file_id = await upload(batches, lines(1))
        assert batches._ledger is not None
        both = [lambda: create(batches, file_id), lambda: batches.delete_file("", file_id)]
        with busy_disk(batches._ledger):
            tasks = []
            for begin in both if created_first else reversed(both):
                tasks.append(asyncio.ensure_future(begin()))
                await as_far_as_possible()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(outcomes[1], InUse if created_first else InvalidRequest)
        assert not isinstance(outcomes[0], Exception)

    World(tmp_path).life(scenario)


def test_uploads_under_way_are_files(tmp_path):
    async def scenario(batches: Batches) -> None:
        first = await batches.begin_upload("")
        with pytest.raises(StorageFull, match="1 files"):
            await batches.begin_upload("")
        await first.abort()
        await (await batches.begin_upload("")).abort()

    World(tmp_path, limits=replace(LIMITS, max_files=1)).life(scenario)
