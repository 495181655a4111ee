"""Requests, tasks and queues for tests that need no event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import cast

from gguf_embed.config import QueueConfig
from gguf_embed.engines.base import BatchLimits
from gguf_embed.engines.fake import FakeContexts, fake_plan
from gguf_embed.scheduler.queue import TaskQueue
from gguf_embed.scheduler.task import Batch, BatchKey, EmbedTask, PendingRequest
from gguf_embed.types import NOBODY, Caller, OutputSpec, Pooling

MEAN, TOKEN_ROWS, SCORE = map(OutputSpec.of, (Pooling.MEAN, Pooling.NONE, Pooling.RANK))
SHORT = BatchKey(MEAN, long=False)
LONG = BatchKey(MEAN, long=True)
MAX_TOKENS = 10  # a longer text is long


def make_request(n_texts: int = 1, admitted_s: float = 0.0, caller: Caller = NOBODY) -> PendingRequest:
    """Without a loop and a future: for code that never answers it."""
    nobody = cast("asyncio.AbstractEventLoop", None)
    unread = cast("asyncio.Future[Sequence]", None)
    return PendingRequest(nobody, unread, admitted_s, [None] * n_texts, n_texts, caller)


def make_tasks(lengths: Sequence[int], cancelled: Sequence[int] = (), key: BatchKey = SHORT) -> list[EmbedTask]:
    """One request per text, due in order; those at the indices `cancelled` have lost their client."""
    tasks = [
        EmbedTask(float(index), index, key, [7] * length, make_request(), 0) for index, length in enumerate(lengths)
    ]
    for index in cancelled:
        tasks[index].request.cancelled = True
    return tasks


def make_queue(
    *,
    n_workers: int = 1,
    n_threads: int = 2,
    alone_threads: int = 2,
    max_queued_tokens: int | None = 1000,
    max_queue_s: float = 60.0,
    max_wait_s: float = 0.0,
    tokens_per_s: float = 100.0,  # 0.1 s for a full batch
    max_sequences: int = 4,
    min_share_tokens: int = 4,
    clock: Callable[[], float] = time.monotonic,
) -> TaskQueue:
    limits = BatchLimits(MAX_TOKENS, max_sequences, min_share_tokens)
    plan = replace(
        fake_plan(limits, n_workers, FakeContexts(MAX_TOKENS)),
        n_threads=n_threads,
        alone_threads=alone_threads,
        tokens_per_s=tokens_per_s,
    )
    return TaskQueue(plan, QueueConfig(max_queued_tokens, max_queue_s, max_wait_s), clock)


def admit(
    queue: TaskQueue,
    lengths: Sequence[int],
    at_s: float = 0.0,
    output: OutputSpec = MEAN,
    caller: Caller = NOBODY,
) -> PendingRequest:
    """Admit one request of texts with these lengths; texts over MAX_TOKENS go to the long key."""
    request = make_request(len(lengths), at_s, caller)
    queue.admit(request, output, [[7] * length for length in lengths])
    return request


def lengths_of(batch: Batch | None) -> list[int] | None:
    return None if batch is None else [len(task.tokens) for task in batch.tasks]
