"""Computes inputs with images, on one thread with its own context, independently of the queue of texts."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from gguf_embed.engines.base import ImageReader, ImageRows
from gguf_embed.errors import EngineFailure, InvalidRequest, Overloaded, Unavailable, WayOut
from gguf_embed.scheduler.scheduler import Submission
from gguf_embed.types import ImageInput, OutputSpec

MAX_WAITING = 64
"""Inputs with images that may wait or run at once. Each takes some seconds with a large model on a CPU."""

MAX_WAITING_BYTES = 512 * 2**20
"""Limit on the size of their image files. A request may exceed it if no other is waiting."""


@dataclass(frozen=True, slots=True)
class _Timed:
    rows: Sequence[ImageRows]
    started_s: float
    compute_s: float


class ImageWorker:
    """Computes inputs in order of arrival: those of a request in groups as large as the reader takes.

    Methods may be called from any event loop.
    """

    def __init__(self, reader: ImageReader, max_waiting: int = MAX_WAITING) -> None:
        self._reader = reader
        self._max_waiting = max_waiting
        self._lock = threading.Lock()
        self._n_waiting = 0
        self._waiting_bytes = 0
        self._is_closed = False
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="images")

    async def submit(self, texts: Sequence[ImageInput], output: OutputSpec) -> Submission:
        """Compute all texts, or raise the first error. If the caller is cancelled, texts that wait never run.

        Raises `Overloaded` if there is no room for all of them, and the errors of `ImageReader.embed_batch`.
        """
        arrived_s = time.monotonic()
        futures = self._admit(texts, output)
        try:
            done = await asyncio.gather(*map(asyncio.wrap_future, futures))
        finally:
            for future in reversed(futures):  # the last first: the thread takes none of them up meanwhile
                future.cancel()
        return Submission(
            outputs=[rows.output for timed in done for rows in timed.rows],
            n_tokens=[rows.n_tokens for timed in done for rows in timed.rows],
            queue_s=done[0].started_s - arrived_s,
            compute_s=sum(timed.compute_s for timed in done),
        )

    def _admit(self, texts: Sequence[ImageInput], output: OutputSpec) -> list[Future[_Timed]]:
        if len(texts) > self._max_waiting:
            raise InvalidRequest(
                f"a request with images has {len(texts)} inputs, the limit is {self._max_waiting}",
                ways_out=[WayOut.FEWER_INPUTS],
            )
        n_together = self._reader.max_inputs
        groups = [texts[at : at + n_together] for at in range(0, len(texts), n_together)]
        sizes = [sum(map(_image_bytes, group)) for group in groups]
        with self._lock:
            if self._is_closed:
                raise Unavailable("the model is being unloaded", [WayOut.RETRY])
            self._check_room(len(texts), sum(sizes))
            self._n_waiting += len(texts)
            self._waiting_bytes += sum(sizes)
            futures = [self._thread.submit(self._run, group, output) for group in groups]
        for future, group, size in zip(futures, groups, sizes, strict=True):
            future.add_done_callback(partial(self._leave, len(group), size))
        return futures

    def _check_room(self, n_texts: int, n_bytes: int) -> None:
        if self._n_waiting + n_texts > self._max_waiting:
            raise Overloaded(
                f"{self._n_waiting} inputs with images are already waiting, the limit is {self._max_waiting}"
            )
        if self._n_waiting and self._waiting_bytes + n_bytes > MAX_WAITING_BYTES:
            raise Overloaded(
                f"images of {self._waiting_bytes:,} bytes are already waiting, the limit is {MAX_WAITING_BYTES:,}"
            )

    def _run(self, group: Sequence[ImageInput], output: OutputSpec) -> _Timed:
        started_s = time.monotonic()
        rows = self._reader.embed_batch(group, output)
        fault = next((found for one in rows if (found := one.output.fault())), None)
        if fault:
            raise EngineFailure(fault)
        return _Timed(rows, started_s, time.monotonic() - started_s)

    def _leave(self, n_inputs: int, size: int, _future: Future[_Timed]) -> None:
        with self._lock:
            self._n_waiting -= n_inputs
            self._waiting_bytes -= size

    def close(self) -> None:
        """Finish accepted work, then free the context. Safe to call twice."""
        with self._lock:
            was_closed, self._is_closed = self._is_closed, True
        self._thread.shutdown(wait=True)
        if not was_closed:
            self._reader.close()


def _image_bytes(text: ImageInput) -> int:
    return sum(len(part) for part in text.parts if isinstance(part, bytes))
