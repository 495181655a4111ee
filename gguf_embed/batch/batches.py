"""Files and batches of one server: what its routes ask for, and the jobs behind them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from gguf_embed.batch.errors import InUse, NoSuchObject, StorageFailed, StorageFull
from gguf_embed.batch.job import Work
from gguf_embed.batch.jobs import Jobs
from gguf_embed.batch.ledger import Ledger, new_id
from gguf_embed.batch.records import BATCH_ID, FILE_ID, Batch, BatchLimits, FileRecord, Status, StoredBatches, moved
from gguf_embed.batch.space import owner_share
from gguf_embed.batch.store import open_store
from gguf_embed.batch.upload import Upload
from gguf_embed.errors import InvalidRequest, Overloaded

logger = logging.getLogger(__name__)

SWEEP_S = 60.0
RETRY_AFTER_S = 60
"""What a client is told that has too many batches."""


@dataclass(frozen=True, slots=True)
class NewBatch:
    """What a client asks for."""

    endpoint: str
    input_file_id: str
    completion_window: str
    window_s: int
    output_kept_s: int
    metadata: dict[str, str] | None = None
    user_agent: str = ""


class Batches:
    """Belongs to one event loop. The folder is opened when it is first needed, or at the start if it is there."""

    def __init__(
        self, folder: Path, limits: BatchLimits, clock: Callable[[], float] = time.time, poll_s: float = 1.0
    ) -> None:
        """`clock`: seconds since 1970. `poll_s`: how often a job looks at it."""
        self.limits = limits
        self._folder = folder
        self._clock = clock
        self._poll_s = poll_s
        self._opening = asyncio.Lock()
        self._ledger: Ledger | None = None
        self._work: Work | None = None
        self._jobs: Jobs | None = None
        self._sweeper: asyncio.Task[None] | None = None
        self._is_closing = False

    async def start(self, work: Work) -> None:
        """Continue the batches of an earlier run. A folder that cannot be opened is said in the log, and tried again
        with each request."""
        self._work = work
        if self._folder.exists():
            with suppress(StorageFailed, StorageFull):
                await self._opened()

    async def stop_jobs(self) -> None:
        """The next start continues them."""
        self._is_closing = True
        if self._jobs is not None:
            await self._jobs.stop()

    async def close(self) -> None:
        await self.stop_jobs()
        if self._sweeper is not None:
            self._sweeper.cancel()
            await asyncio.gather(self._sweeper, return_exceptions=True)
        if self._ledger is not None:
            await self._ledger.close()

    async def _opened(self) -> Ledger:
        """Raises `StorageFailed`."""
        async with self._opening:
            if self._ledger is None:
                store = await asyncio.to_thread(open_store, self._folder, self.limits)
                self._ledger = Ledger(store, self._clock)
                self._sweeper = asyncio.create_task(self._sweep_forever(self._ledger))
                if self._work is not None and not self._is_closing:
                    self._jobs = Jobs(self._ledger, self._work, self._poll_s)
                    self._jobs.start()
            return self._ledger

    async def owner_of(self, api_key: str) -> str:
        return (await self._opened()).store.owner_of(api_key)

    # files

    async def begin_upload(self, owner: str) -> Upload:
        """Raises `StorageFull` if there are too many files."""
        return await Upload.begin(await self._opened(), owner, self.limits.max_file_bytes)

    async def files(self, owner: str, purpose: str | None = None) -> Sequence[FileRecord]:
        """The owner's files, oldest first."""
        ledger = await self._opened()
        found = [record for record in ledger.store.all_files() if self._is_theirs(record, owner)]
        return [record for record in found if purpose is None or record.purpose == purpose]

    async def file(self, owner: str, file_id: str) -> FileRecord:
        """Raises `NoSuchObject`."""
        store = (await self._opened()).store
        record = store.files.get(file_id) if FILE_ID.fullmatch(file_id) else None
        if record is None or not self._is_theirs(record, owner):
            raise NoSuchObject("file", file_id)
        return record

    def _is_theirs(self, record: FileRecord, owner: str) -> bool:
        return record.owner == owner and record.expires_at > self._clock()

    async def content(self, owner: str, file_id: str) -> Path:
        """Where the content is. Raises `NoSuchObject`."""
        record = await self.file(owner, file_id)
        return (await self._opened()).store.content_path(record.id)

    async def delete_file(self, owner: str, file_id: str) -> None:
        """Raises `NoSuchObject`, or `InUse`."""
        record = await self.file(owner, file_id)
        ledger = await self._opened()
        if not await ledger.on_disk(ledger.store.remove_file, record.id):
            raise NoSuchObject("file", file_id)

    # batches

    async def create(self, owner: str, new: NewBatch) -> Batch:
        """Raises `InvalidRequest` for a file that is no input, `Overloaded` for too many batches, `StorageFull`."""
        ledger = await self._opened()
        try:
            record = await self.file(owner, new.input_file_id)
        except NoSuchObject as error:
            raise InvalidRequest(error.message, "input_file_id") from None
        if record.purpose != "batch":
            raise InvalidRequest(
                f'file {record.id} has the purpose "{record.purpose}", and the input of a batch needs "batch"',
                "input_file_id",
            )
        active = [batch for batch in ledger.store.all_batches() if batch.owner == owner and not batch.is_over]
        if len(active) >= self.limits.max_active:
            raise Overloaded(
                f"{len(active)} batches are not over, which is the limit: wait for one of them, or cancel it",
                RETRY_AFTER_S,
                (),
            )
        now_s = ledger.now_s
        batch = Batch(
            id=new_id("batch_"),
            owner=owner,
            number=ledger.store.new_number(),
            endpoint=new.endpoint,
            input_file_id=record.id,
            completion_window=new.completion_window,
            created_at=now_s,
            expires_at=now_s + new.window_s,
            output_kept_s=new.output_kept_s,
            user_agent=new.user_agent,
            metadata=new.metadata,
        )
        await self._make_room(ledger, owner)
        try:
            await ledger.on_disk(ledger.store.add_batch, batch)
        except NoSuchObject as error:
            raise InvalidRequest(error.message, "input_file_id") from None
        if self._jobs is not None:
            self._jobs.start()
        return batch

    async def _make_room(self, ledger: Ledger, owner: str) -> None:
        """Forget the owner's oldest batch that is over, if there are too many. Raises `StorageFull`."""
        stored, limit = ledger.store.all_batches(), self.limits.max_batches
        mine = [batch for batch in stored if batch.owner == owner]
        share = owner_share(limit, self.limits.is_shared, len(stored) - len(mine))
        if len(stored) < limit and len(mine) < share:
            return
        jobs = self._jobs  # one that has just stored the end of its batch still reads it
        over = [batch for batch in mine if batch.is_over and not (jobs is not None and jobs.is_running(batch.id))]
        if not over:
            found = f"there are {limit}" if len(stored) >= limit else f"this key has {len(mine)}"
            raise StorageFull(f"{found} batches, which is the limit: try again when some are over")
        oldest = min(over, key=lambda batch: batch.number)
        await ledger.on_disk(ledger.store.remove_batch, oldest.id)

    async def batches(self, owner: str) -> Sequence[Batch]:
        """The owner's batches, newest first, with the lines that are finished now."""
        ledger = await self._opened()
        theirs = [batch for batch in ledger.store.all_batches() if batch.owner == owner]
        return [self._now(batch) for batch in sorted(theirs, key=lambda batch: -batch.number)]

    async def batch(self, owner: str, batch_id: str) -> Batch:
        """Raises `NoSuchObject`."""
        store = (await self._opened()).store
        found = store.batches.get(batch_id) if BATCH_ID.fullmatch(batch_id) else None
        if found is None or found.owner != owner:
            raise NoSuchObject("batch", batch_id)
        return self._now(found)

    def _now(self, batch: Batch) -> Batch:
        return batch if self._jobs is None else self._jobs.now(batch)

    async def cancel(self, owner: str, batch_id: str) -> Batch:
        """Stop computing it. What is finished is kept. Raises `NoSuchObject`, or `InvalidRequest` if it is over."""
        ledger = await self._opened()
        await self.batch(owner, batch_id)

        def step(batch: Batch) -> Batch:
            if batch.is_over:
                raise InvalidRequest(f"batch {batch.id} is {batch.status} and cannot be cancelled any more", "batch_id")
            if batch.status in (Status.CANCELLING, Status.FINALIZING):
                return batch
            return moved(batch, Status.CANCELLING, ledger.now_s)

        await ledger.change(batch_id, step)
        if self._jobs is not None:
            self._jobs.cancel(batch_id)
        return await self.batch(owner, batch_id)

    def stored(self) -> StoredBatches:
        """What the folder holds now; nothing before it is first opened."""
        if self._ledger is None:
            return StoredBatches({})
        store = self._ledger.store
        batches = [self._now(batch) for batch in store.all_batches()]
        waiting = (b.n_requests - b.n_completed - b.n_failed for b in batches if not b.is_over)
        return StoredBatches(Counter(batch.status.value for batch in batches), sum(waiting), store.space.used_bytes)

    async def _sweep_forever(self, ledger: Ledger) -> None:
        while True:
            try:
                await self._sweep(ledger)
            except (StorageFailed, StorageFull) as error:
                logger.warning("expired files are not deleted: %s", error.message)
            await asyncio.sleep(SWEEP_S)

    async def _sweep(self, ledger: Ledger) -> None:
        """Delete files that have expired, and batches that ended long ago."""
        now_s, store = ledger.now_s, ledger.store
        in_use = {batch.input_file_id for batch in store.all_batches() if not batch.is_over}
        for record in [r for r in store.all_files() if r.expires_at <= now_s and r.id not in in_use]:
            with suppress(InUse):
                await ledger.on_disk(store.remove_file, record.id)
        for batch in [b for b in store.all_batches() if (b.ended_at or now_s) + self.limits.kept_s <= now_s]:
            await ledger.on_disk(store.remove_batch, batch.id)
