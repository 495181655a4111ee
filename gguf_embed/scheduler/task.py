"""One text waiting, and the request it belongs to."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from gguf_embed.errors import EmbedError
from gguf_embed.types import FloatMatrix, Pooling


@dataclass(frozen=True, slots=True)
class BatchKey:
    """Texts that can share a batch: the same pooling, and all fit the small context or all need the large one."""

    pooling: Pooling
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
    """All texts of one request until the last is answered. Touched on its event loop only, but for `cancelled`.

    `rows[i]` is float32[1, n_embd] when pooled, else float32[n_tokens_i, n_embd]; None where text i failed.
    """

    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[None]  # done when every text has its rows or its error
    admitted_s: float
    rows: list[FloatMatrix | None]
    n_left: int
    cancelled: bool = False  # set on the loop, read by workers: a plain bool, so no lock
    on_reserve: bool = False  # the queue was full and let it in all the same; belongs to the queue
    queue_s: float = 0.0
    compute_s: float = 0.0
    errors: dict[int, EmbedError] = field(default_factory=dict)

    def answer(self, index: int, outcome: FloatMatrix | EmbedError) -> None:
        """Take one text's rows or error; after the last one the future is done."""
        if isinstance(outcome, EmbedError):
            self.errors[index] = outcome
        else:
            self.rows[index] = outcome
        self.n_left -= 1
        if self.n_left == 0 and not self.future.done():
            self.future.set_result(None)


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
    results: Sequence[FloatMatrix | EmbedError]
    taken_s: float
    done_s: float


def split_rows(key: BatchKey, lengths: Sequence[int], rows: FloatMatrix) -> list[FloatMatrix]:
    """Cut a batch's rows into each text's own, float32[1, d] pooled or float32[n_tokens, d]; copies when per token,

    so that one slow client does not keep a whole batch's token rows in memory.
    """
    if key.pooling is not Pooling.NONE:
        return [rows[i : i + 1] for i in range(len(lengths))]
    ends = np.cumsum(lengths)
    return [rows[end - n : end].copy() for end, n in zip(ends, lengths, strict=True)]
