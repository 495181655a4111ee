"""One queued text, the request it belongs to, and the batch it runs in."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from gguf_embed.errors import EmbedError
from gguf_embed.types import NOBODY, Caller, Output, OutputSpec


@dataclass(frozen=True, slots=True)
class BatchKey:
    """Texts with equal keys may share a batch: same output, same context size."""

    output: OutputSpec
    long: bool  # needs the large context


@dataclass(slots=True, eq=False)
class EmbedTask:
    """One text waiting for a worker. Ordered by its tag, see `finish_tags`."""

    finish_tag: float
    order: int  # of admission, to break ties
    key: BatchKey
    tokens: Sequence[int]
    request: PendingRequest
    index: int  # among the request's texts

    def __lt__(self, other: EmbedTask) -> bool:
        return (self.finish_tag, self.order) < (other.finish_tag, other.order)


@dataclass(slots=True, eq=False)
class PendingRequest:
    """A request until its last text is answered. Belongs to its event loop, except what belongs to the queue."""

    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[None]  # done when every text has its output or its error
    admitted_s: float
    outputs: list[Output | None]  # one text each; None if it failed
    n_left: int
    caller: Caller = NOBODY
    cancelled: bool = False  # nobody waits for it any more; belongs to the queue
    is_outside: bool = False  # waits until the queue has room for it; belongs to the queue
    on_reserve: bool = False  # admitted on the queue's reserve; belongs to the queue
    n_waiting: int = 0  # texts in the queue; belongs to the queue
    weight: float = 1.0  # its share among its client's requests; belongs to the queue
    queue_s: float = 0.0
    compute_s: float = 0.0
    errors: dict[int, EmbedError] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Work:
    """The texts of a request, on their way into the queue."""

    request: PendingRequest
    output: OutputSpec
    texts: Sequence[Sequence[int]]
    lengths: Sequence[int]
    n_tokens: int
    since_s: float = 0.0  # when it came for the first time, if it was refused before
    order: int | None = None  # of its first refusal, if it came again when it was told


@dataclass(frozen=True, slots=True)
class Batch:
    """The texts that a worker runs in one engine call."""

    key: BatchKey
    tasks: Sequence[EmbedTask]
    n_tokens: int
    n_threads: int
    budget_tokens: int  # how many tokens it could have held


@dataclass(frozen=True, slots=True)
class BatchOutcome:
    """A batch that has run: `results[i]` answers `batch.tasks[i]`."""

    batch: Batch
    results: Sequence[Output | EmbedError]
    taken_s: float
    done_s: float
