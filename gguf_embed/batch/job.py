"""One batch from any state to its end. Each step is stored before the next one, so that a crash repeats one at most."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from gguf_embed.batch.check import check_source
from gguf_embed.batch.errors import StorageFailed, StorageFull
from gguf_embed.batch.ledger import Ledger, new_id
from gguf_embed.batch.line_log import Results
from gguf_embed.batch.lines import Rules
from gguf_embed.batch.records import Batch, FileRecord, LineError, Status, moved
from gguf_embed.batch.run_lines import Answer, LineRun, run_lines, write_left
from gguf_embed.batch.store import LOGS, RECORD_BYTES, storage_error
from gguf_embed.types.caller import CALLER, Caller, Priority

logger = logging.getLogger(__name__)

_T = TypeVar("_T")

NOT_COMPUTED = {
    Status.EXPIRED: ("batch_expired", "the batch expired before this request was computed"),
    Status.CANCELLED: ("batch_cancelled", "the batch was cancelled before this request was computed"),
}
"""OpenAI's code and our message for requests that were left, by how their batch ended."""


@dataclass(frozen=True, slots=True)
class Work:
    """How lines are computed, for all batches."""

    rules_of: Callable[[str], Rules]  # of an endpoint
    answer_of: Callable[[Batch], Answer]


class Job:
    """Runs one batch. Belongs to one event loop."""

    def __init__(self, batch_id: str, ledger: Ledger, work: Work, poll_s: float) -> None:
        """`poll_s`: how often the clock is looked at and the lines are synced to the disk."""
        self.batch_id = batch_id
        self._ledger = ledger
        self._work = work
        self._poll_s = poll_s
        self._cancelled = asyncio.Event()
        self._results: Results | None = None

    @property
    def batch(self) -> Batch:
        """Its state, with the lines that are finished now."""
        return self._counted(self._ledger.store.batches[self.batch_id])

    def _counted(self, batch: Batch) -> Batch:
        found = self._results
        if found is None:
            return batch
        return replace(
            batch,
            n_completed=found.n_completed,
            n_failed=found.n_failed,
            n_tokens=found.n_tokens,
            model=batch.model or found.model,
        )

    def cancel(self) -> None:
        """The status is `cancelling` already."""
        self._cancelled.set()

    async def run(self) -> None:
        """Returns when the batch is over. If it is cancelled, or raises, the batch continues with the next run.

        Raises `StorageFailed`, `StorageFull` or `OSError` if the disk fails.
        """
        owner = f"batch {self.batch.owner}"
        CALLER.set(Caller(owner, Priority.BATCH, cache_scope=owner))
        try:
            if self.batch.status is Status.VALIDATING:
                await self._validate()
            if self.batch.status in (Status.IN_PROGRESS, Status.FINALIZING, Status.CANCELLING):
                await self._finish()
        finally:
            if self._results is not None:
                self._results.close()
                self._results = None

    async def _validate(self) -> None:
        checking = await self._watched(check_source(self._source, self._rules))
        if checking.cancelled():
            await self._move(Status.EXPIRED)  # a cancelled batch has its status already
            return
        error = checking.exception()
        if isinstance(error, OSError):
            failure = storage_error(error, self._ledger.store.folder)
            await self._move(Status.FAILED, errors=(LineError("input_file_unreadable", failure.message),))
            return
        checked = checking.result()
        if checked.errors:
            await self._move(Status.FAILED, errors=checked.errors, n_requests=checked.n_requests, model=checked.model)
        else:
            await self._move(Status.IN_PROGRESS, n_requests=checked.n_requests, model=checked.model)

    async def _watched(
        self, work: Coroutine[Any, Any, _T], at_each_look: Callable[[], None] | None = None
    ) -> asyncio.Task[_T]:
        """Run work until it is done, or stop it because the batch is cancelled or expires; its task then is cancelled.

        `at_each_look` runs on a thread, and what it raises ends the work, too.
        """
        task, stop = asyncio.create_task(work), asyncio.create_task(self._cancelled.wait())
        try:
            while not (task.done() or self._cancelled.is_set() or self._has_expired()):
                await asyncio.wait({task, stop}, timeout=self._poll_s, return_when=asyncio.FIRST_COMPLETED)
                if at_each_look is not None:
                    await asyncio.to_thread(at_each_look)
        finally:
            stop.cancel()
            task.cancel()
            await asyncio.wait({task})
            if not task.cancelled():
                task.exception()  # it is lost if another one ends this, which is not worth a warning
        return task

    @property
    def _rules(self) -> Rules:
        return self._work.rules_of(self.batch.endpoint)

    @property
    def _source(self) -> Path:
        return self._ledger.store.content_path(self.batch.input_file_id)

    def _has_expired(self) -> bool:
        return self._ledger.clock() >= self.batch.expires_at

    async def _finish(self) -> None:
        """Compute what is left, unless that has ended, and make files of the lines."""
        if not self.batch.is_written:
            await self._write_lines()
        await self._store_lines()
        batch = self.batch
        await self._move(Status.CANCELLED if batch.status is Status.CANCELLING else batch.ends_as)

    async def _write_lines(self) -> None:
        store = self._ledger.store
        output, errors = (store.log_path(self.batch_id, log) for log in LOGS)
        results = await asyncio.to_thread(Results, output, errors, self.batch.key)
        self._results = results
        taken = partial(store.space.taken, self.batch.owner)
        run = LineRun(self._source, self._rules, results, self._work.answer_of(self.batch), taken)
        if self.batch.status is Status.IN_PROGRESS:
            await self._compute(run)
        batch = self.batch
        end = Status.CANCELLED if batch.status is Status.CANCELLING else batch.ends_as
        if end in NOT_COMPUTED and batch.in_progress_at is not None:
            try:
                await write_left(run, *NOT_COMPUTED[end])
            except (OSError, StorageFull) as error:
                logger.warning("%s: the requests that were left are not in its error file: %s", batch.id, error)
        await asyncio.to_thread(results.sync)
        await self._ledger.change(
            self.batch_id,
            lambda batch: replace(
                self._counted(batch),
                is_written=True,
                output_file_id=new_id("file-") if results.output.n_bytes else None,
                error_file_id=new_id("file-") if results.errors.n_bytes else None,
            ),
        )
        results.close()
        self._results = None

    async def _compute(self, run: LineRun) -> None:
        """Compute lines until all are finished, or the batch is cancelled, expires or has no room."""
        lines = await self._watched(run_lines(run), run.results.sync)
        ends_as, errors = self._outcome(lines)
        await self._move(Status.FINALIZING, ends_as=ends_as, errors=errors)

    def _outcome(self, lines: asyncio.Task[None]) -> tuple[Status, tuple[LineError, ...]]:
        """How the batch ends, and why."""
        if lines.cancelled():
            return Status.EXPIRED, ()  # a cancelled batch has its status already
        error = lines.exception()
        if error is None:
            return Status.COMPLETED, ()
        if isinstance(error, OSError):
            error = storage_error(error, self._ledger.store.folder)
        if isinstance(error, (StorageFull, StorageFailed)):
            return Status.FAILED, (LineError("storage_limit_exceeded", error.message),)
        logger.error("%s failed", self.batch_id, exc_info=error)
        return Status.FAILED, (LineError("internal_error", "internal error: see the server's log for details"),)

    async def _store_lines(self) -> None:
        """Make files of the lines. Does nothing twice."""
        store, batch = self._ledger.store, self.batch
        for log, noun, file_id in zip(
            LOGS, ("output", "error"), (batch.output_file_id, batch.error_file_id), strict=True
        ):
            path = store.log_path(batch.id, log)
            if file_id is None:
                path.unlink(missing_ok=True)
            elif file_id not in store.files:
                content = path if path.exists() else store.content_path(file_id)
                now_s = self._ledger.now_s
                record = FileRecord(
                    id=file_id,
                    owner=batch.owner,
                    number=store.new_number(),
                    n_bytes=content.stat().st_size,
                    created_at=now_s,
                    filename=f"{batch.id}_{noun}.jsonl",
                    purpose="batch_output",
                    expires_at=now_s + batch.output_kept_s,
                )
                await self._ledger.on_disk(store.add_file, record, path)
                store.space.add(batch.owner, RECORD_BYTES, n_files=1)

    async def _move(self, status: Status, **changes: Any) -> None:
        """Store the next status. One that was cancelled meanwhile stays so."""

        def step(batch: Batch) -> Batch:
            if batch.status is Status.CANCELLING and status is not Status.CANCELLED:
                return batch
            return moved(batch, status, self._ledger.now_s, **changes)

        await self._ledger.change(self.batch_id, step)
