"""The queue of images: order, limits, waiting, cancelling and closing, with a reader that waits for the test."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Sequence

import numpy as np
import pytest

from gguf_embed.config import QueueConfig
from gguf_embed.engines.base import ImageRows
from gguf_embed.errors import EngineFailure, InvalidRequest, Overloaded, Unavailable
from gguf_embed.scheduler.image_scheduler import MAX_INPUTS, MAX_WAITING_BYTES, ImageScheduler
from gguf_embed.scheduler.scheduler import Submission
from gguf_embed.types import DENSE, ImageInput, OutputSpec
from gguf_embed.vectors import Rows
from tests.scheduler.builders import MEAN


class ScriptedReader:
    """Answers text i with the number i; can be held, and fails for the text "bad"."""

    def __init__(self, max_inputs: int = 1) -> None:
        self.max_inputs = max_inputs
        self.groups: list[int] = []
        self.read: list[int] = []
        self.begun = threading.Event()
        self.go_on = threading.Event()
        self.go_on.set()
        self.n_closed = 0

    def embed_batch(self, inputs: Sequence[ImageInput], output: OutputSpec) -> list[ImageRows]:
        self.groups.append(len(inputs))
        return [self._embed(text) for text in inputs]

    def _embed(self, text: ImageInput) -> ImageRows:
        self.begun.set()
        if text.parts == ("bad",):
            raise EngineFailure(f"input {text.index} is bad")
        assert self.go_on.wait(20)
        self.read.append(text.index)
        rows = Rows.one_each(DENSE, np.full((1, 2), text.index + 1.0, np.float32))
        return ImageRows(rows, n_tokens=text.index + 1)

    def close(self) -> None:
        self.n_closed += 1


def texts(*indices: int) -> list[ImageInput]:
    return [ImageInput(index, ("good",)) for index in indices]


async def occupied(
    worker: ImageScheduler, reader: ScriptedReader, inputs: Sequence[ImageInput]
) -> asyncio.Task[Submission]:
    """Submit a request that the reader holds until it may go on, and return once it has begun."""
    reader.go_on.clear()
    running = asyncio.create_task(worker.submit(inputs, MEAN))
    assert await asyncio.to_thread(reader.begun.wait, 20)
    return running


ROOM_FOR_3 = QueueConfig(max_s=3.0, max_wait_s=0.0)  # at one input per second, as long as nothing was measured


class BufferedReader(ScriptedReader):
    """Keeps buffers, and says in `released` on which thread they were freed."""

    def __init__(self) -> None:
        super().__init__()
        self.released: queue.Queue[str] = queue.Queue()

    def release_buffers(self) -> None:
        self.released.put(threading.current_thread().name)


@pytest.fixture
def reader():
    return ScriptedReader()


@pytest.fixture
def worker(reader):
    worker = ImageScheduler(reader, ROOM_FOR_3)
    yield worker
    reader.go_on.set()
    worker.close()


def test_rows_and_tokens_come_in_the_order_of_the_texts(worker, reader):
    done = asyncio.run(worker.submit(texts(2, 0, 1), MEAN))
    assert [output.matrix[0, 0] for output in done.outputs] == [3, 1, 2]
    assert done.n_tokens == [3, 1, 2]
    assert reader.read == [2, 0, 1]
    assert done.queue_s >= 0 <= done.compute_s


def test_an_idle_image_thread_frees_its_readers_buffers_and_goes_on(monkeypatch):
    monkeypatch.setattr("gguf_embed.scheduler.worker.RELEASE_AFTER_S", 0.01)
    reader = BufferedReader()
    worker = ImageScheduler(reader, ROOM_FOR_3)
    for index in (1, 2):
        done = asyncio.run(worker.submit(texts(index), MEAN))
        assert [output.matrix[0, 0] for output in done.outputs] == [index + 1]
        assert reader.released.get(timeout=20) == "embed-worker-0"
    worker.close()


def test_inputs_are_computed_in_groups_as_large_as_the_reader_takes():
    reader = ScriptedReader(max_inputs=2)
    worker = ImageScheduler(reader, ROOM_FOR_3)
    try:
        done = asyncio.run(worker.submit(texts(4, 0, 1, 2, 3), MEAN))
    finally:
        worker.close()
    assert max(reader.groups) == 2
    assert sum(reader.groups) == 5
    assert [output.matrix[0, 0] for output in done.outputs] == [5, 1, 2, 3, 4]
    assert done.n_tokens == [5, 1, 2, 3, 4]


def test_inputs_of_several_requests_share_a_group():
    reader = ScriptedReader(max_inputs=2)
    worker = ImageScheduler(reader, ROOM_FOR_3)

    async def scenario() -> list[Submission]:
        running = await occupied(worker, reader, texts(0))
        others = [asyncio.ensure_future(worker.submit(texts(number), MEAN)) for number in (1, 2)]
        await asyncio.sleep(0)
        reader.go_on.set()
        return await asyncio.gather(running, *others)

    try:
        done = asyncio.run(scenario())
    finally:
        worker.close()
    assert reader.groups == [1, 2]
    assert [one.n_tokens for one in done] == [[1], [2], [3]]


def test_an_input_that_fails_fails_alone(reader):
    reader.max_inputs = 3
    worker = ImageScheduler(reader, ROOM_FOR_3)
    try:
        done = asyncio.run(worker.submit([*texts(0), ImageInput(1, ("bad",)), *texts(2)], MEAN))
    finally:
        worker.close()
    assert [output and output.matrix[0, 0] for output in done.outputs] == [1, None, 3]
    assert "input 1 is bad" in done.failures[1].message


def test_a_request_that_does_not_fit_is_refused_whole_and_room_becomes_free_again(worker, reader):
    async def scenario() -> None:
        running = await occupied(worker, reader, texts(0))
        waiting = asyncio.ensure_future(worker.submit(texts(1, 2), MEAN))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match=r"holds 2 inputs with images, this request has 2, and the limit is 3"):
            await worker.submit(texts(3, 4), MEAN)
        reader.go_on.set()
        await asyncio.gather(running, waiting)
        await worker.submit(texts(4, 5, 6), MEAN)

    asyncio.run(scenario())
    assert reader.read == [0, 1, 2, 4, 5, 6]


def test_a_request_waits_for_room_before_it_is_refused(reader):
    worker = ImageScheduler(reader, QueueConfig(max_s=3.0, max_wait_s=20.0))

    async def scenario() -> None:
        running = await occupied(worker, reader, texts(0))
        waiting = [asyncio.ensure_future(worker.submit(texts(*two), MEAN)) for two in ((1, 2), (3, 4))]
        await asyncio.sleep(0)
        reader.go_on.set()
        await asyncio.gather(running, *waiting)

    try:
        asyncio.run(scenario())
    finally:
        worker.close()
    assert reader.read == [0, 1, 2, 3, 4]


def test_images_that_wait_are_bounded_in_bytes_too(worker, reader):
    large = ImageInput(0, (bytes(MAX_WAITING_BYTES // 2 + 1),))

    async def scenario() -> None:
        running = await occupied(worker, reader, [large])
        with pytest.raises(Overloaded, match=r"268,435,457 bytes.*536,870,912"):
            await worker.submit([large], MEAN)
        reader.go_on.set()
        await running
        await worker.submit([large], MEAN)  # nothing is waiting, so there is room again

    asyncio.run(scenario())


def test_a_client_whose_images_have_no_room_is_told_when_those_that_wait_are_computed(worker, reader):
    quarter = ImageInput(0, (bytes(MAX_WAITING_BYTES // 4),))

    async def scenario() -> list[float]:
        running = await occupied(worker, reader, [quarter] * 3)
        told = []
        for _ in range(3):
            with pytest.raises(Overloaded) as refused:
                await worker.submit([quarter] * 2, MEAN)
            told.append(refused.value.retry_after_s)
        reader.go_on.set()
        await running
        return told

    told = asyncio.run(scenario())
    assert told == [1.0, 3.0, 5.0]  # at one input per second, one too many, and then two more for each


def test_a_request_over_the_limit_is_invalid(worker):
    with pytest.raises(InvalidRequest, match=rf"{MAX_INPUTS + 1} inputs.*\b{MAX_INPUTS}\b"):
        asyncio.run(worker.submit(texts(*range(MAX_INPUTS + 1)), MEAN))


def test_texts_of_a_cancelled_caller_do_not_run_and_free_their_room(worker, reader):
    async def scenario() -> None:
        running = await occupied(worker, reader, texts(0, 1, 2))
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        next_one = asyncio.ensure_future(worker.submit(texts(7, 8), MEAN))  # there is room for two again
        await asyncio.sleep(0)
        reader.go_on.set()
        await next_one

    asyncio.run(scenario())
    assert reader.read == [0, 7, 8]


def test_closing_answers_what_was_accepted_and_frees_the_reader_once(worker, reader):
    async def scenario() -> None:
        running = await occupied(worker, reader, texts(0, 1))
        closing = asyncio.ensure_future(asyncio.to_thread(worker.close))
        reader.go_on.set()
        assert len((await running).outputs) == 2
        await closing

    asyncio.run(scenario())
    worker.close()
    assert reader.n_closed == 1
    with pytest.raises(Unavailable):
        asyncio.run(worker.submit(texts(0), MEAN))
