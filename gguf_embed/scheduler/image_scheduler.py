"""Runs inputs with images on one thread, with a queue of their own, to which an input is a text of one token."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import cast

from gguf_embed.config import QueueConfig
from gguf_embed.engines.base import BatchLimits, ContextSpec, ExecutionPlan, ImageReader
from gguf_embed.engines.freed_memory import free_buffers
from gguf_embed.errors import InvalidRequest, Overloaded, WayOut
from gguf_embed.scheduler.admission import excess_tokens
from gguf_embed.scheduler.retry_times import RetryTimes
from gguf_embed.scheduler.scheduler import Scheduler, Submission
from gguf_embed.types import ImageInput, Output, OutputSpec

MAX_INPUTS = 64
"""Inputs with images in one request. Each takes some seconds with a large model on a CPU."""

MAX_WAITING_BYTES = 512 * 2**20
"""Limit on the size of the image files that wait or run. A request may exceed it if no other is waiting."""

GUESSED_INPUTS_PER_S = 1.0
"""Until the queue has measured the speed."""


class _ImageTask(tuple[int, ...]):
    """One token, which stands for an image."""

    image: ImageInput
    n_tokens: int = 0  # after it was computed, including those of the images

    @classmethod
    def of(cls, image: ImageInput) -> _ImageTask:
        task = cls((0,))
        task.image = image
        return task


class _OneInputEach:
    """The contexts for images: one kind, as large as the reader takes."""

    max_tokens = long_tokens = 1

    def __init__(self, max_inputs: int) -> None:
        self._max_inputs = max_inputs

    def spec(self, output: OutputSpec, n_tokens: int, *, long: bool) -> ContextSpec:
        return ContextSpec(output, self._max_inputs, self._max_inputs)


@dataclass(frozen=True, slots=True)
class _ReaderContext:
    reader: ImageReader
    spec: ContextSpec

    def embed(self, batch: Sequence[Sequence[int]], n_threads: int) -> Output:
        tasks = cast("Sequence[_ImageTask]", batch)  # the queue hands on what `ImageScheduler.submit` gave it
        rows = self.reader.embed_batch([task.image for task in tasks], self.spec.output)
        for task, row in zip(tasks, rows, strict=True):
            task.n_tokens = row.n_tokens
        outputs = [row.output for row in rows]
        return type(outputs[0]).join(outputs)

    def release_buffers(self) -> None:
        """Implements `KeepsBuffers`: those of the reader, if it keeps any."""
        free_buffers([self.reader])

    def close(self) -> None:
        """The reader stays open for the other contexts."""


class _Unobserved:
    """The metrics of batches are those of texts."""

    def observe_batch(self, n_texts: int, n_tokens: int, budget_tokens: int, compute_s: float) -> None: ...


class ImageScheduler:
    """Inputs wait as texts do: clients take turns, and a request waits for room before it is refused.

    Inputs of several requests share a batch, as many as the reader takes. Methods may be called from any event loop.
    """

    def __init__(self, reader: ImageReader, config: QueueConfig) -> None:
        self._reader = reader
        self._lock = threading.Lock()
        self._waiting_bytes = self._n_waiting = 0
        self._retry_times = RetryTimes()
        limits = BatchLimits(max_tokens=reader.max_inputs, max_sequences=reader.max_inputs, min_share_tokens=1)
        plan = ExecutionPlan(_OneInputEach(reader.max_inputs), limits, 1, 1, 1, GUESSED_INPUTS_PER_S, kernels="")
        config = replace(config, max_tokens=None)  # what is computed in `max_s`
        self._scheduler = Scheduler(self, plan, config, _Unobserved(), unit="inputs with images")
        self._scheduler.start()
        self._is_open = True

    def open_context(self, spec: ContextSpec) -> _ReaderContext:
        return _ReaderContext(self._reader, spec)

    async def submit(self, inputs: Sequence[ImageInput], output: OutputSpec) -> Submission:
        """Compute all inputs; errors of single ones are in the submission's `failures`.

        If the caller is cancelled, inputs that wait never run. Raises `InvalidRequest` for too many inputs,
        `Overloaded` if there is no room for all of them, perhaps after waiting for it, and `Unavailable`.
        """
        if len(inputs) > MAX_INPUTS:
            raise InvalidRequest(
                f"a request with images has {len(inputs)} inputs, the limit is {MAX_INPUTS}",
                ways_out=[WayOut.FEWER_INPUTS],
            )
        tasks = [_ImageTask.of(image) for image in inputs]
        with self._room_for(sum(map(_image_bytes, inputs)), len(inputs)):
            done = await self._scheduler.submit(tasks, output)
        return replace(done, n_tokens=[task.n_tokens for task in tasks])

    @contextmanager
    def _room_for(self, n_bytes: int, n_inputs: int) -> Iterator[None]:
        with self._lock:
            if self._waiting_bytes and self._waiting_bytes + n_bytes > MAX_WAITING_BYTES:
                raise Overloaded(
                    f"images of {self._waiting_bytes:,} bytes are already waiting, the limit is {MAX_WAITING_BYTES:,}",
                    retry_after_s=self._retry_after_s(n_bytes),
                )
            self._waiting_bytes += n_bytes
            self._n_waiting += n_inputs
        try:
            yield
        finally:
            with self._lock:
                self._waiting_bytes -= n_bytes
                self._n_waiting -= n_inputs

    def _retry_after_s(self, n_bytes: int) -> float:
        """When there is room for a refused request, counted in inputs of the mean size of those that wait."""
        excess = excess_tokens(n_bytes, self._waiting_bytes, MAX_WAITING_BYTES)
        n_inputs, n_excess = (math.ceil(size * self._n_waiting / self._waiting_bytes) for size in (n_bytes, excess))
        inputs_per_s = self._scheduler.state().tokens_per_s
        return self._retry_times.tell(time.monotonic(), n_inputs, n_excess, inputs_per_s)

    def shed(self, within_s: float) -> None:
        """See `Scheduler.shed`."""
        self._scheduler.shed(within_s)

    def close(self) -> None:
        """Finish accepted work, then free the reader. Safe to call twice."""
        self._scheduler.close()
        if self._is_open:
            self._is_open = False
            self._reader.close()


def _image_bytes(image: ImageInput) -> int:
    return sum(len(part) for part in image.parts if isinstance(part, bytes))
