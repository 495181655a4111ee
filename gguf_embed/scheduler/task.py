"""One text waiting, and the request it belongs to."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from gguf_embed.errors import EmbedError
from gguf_embed.types import Output, OutputSpec


@dataclass(frozen=True, slots=True)
class BatchKey:
    """Texts that can share a batch: the same output, and all fit the small context or all need the large one."""

    output: OutputSpec
    long: bool


@dataclass(slots=True, eq=False)
class EmbedTask:
    """One text waiting for a worker. Ordered by when it is due, see `due_times`."""

    due_s: float
    order: int  # of admission: ties go first come, first served
    key: BatchKey
    tokens: Sequence[int]
    request: PendingRequest
    index: int  # which of the request's texts

    def __lt__(self, other: EmbedTask) -> bool:
        return (self.due_s, self.order) < (other.due_s, other.order)


@dataclass(slots=True, eq=False)
class PendingRequest:
    """All texts of one request until the last is answered. Touched on its event loop only, but for `cancelled`."""

    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[None]  # done when every text has its output or its error
    admitted_s: float
    outputs: list[Output | None]  # of one text each; None where it failed
    n_left: int
    cancelled: bool = False  # set on the loop, read by workers: a plain bool, so no lock
    on_reserve: bool = False  # the queue was full and let it in all the same; belongs to the queue
    queue_s: float = 0.0
    compute_s: float = 0.0
    errors: dict[int, EmbedError] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Batch:
    """What a worker runs at once."""

    key: BatchKey
    tasks: Sequence[EmbedTask]
    n_tokens: int
    n_threads: int
    budget_tokens: int  # what the batch could have held


@dataclass(frozen=True, slots=True)
class BatchOutcome:
    """What became of a batch: `results[i]` answers `batch.tasks[i]`."""

    batch: Batch
    results: Sequence[Output | EmbedError]
    taken_s: float
    done_s: float
