"""Pure decisions: whose turn it is, and what the next batch holds. No clock, no lock, no thread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from gguf_embed.engines.base import BatchLimits, ExecutionPlan
from gguf_embed.scheduler.task import EmbedTask

MAX_WEIGHT = 16.0


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """The tasks to run now, and the cancelled ones to drop. Together they are the first of the candidates."""

    taken: Sequence[EmbedTask]
    dropped: Sequence[EmbedTask]
    n_tokens: int


def take_batch(waiting: Sequence[EmbedTask], limits: BatchLimits, max_tokens: int) -> BatchPlan:
    """Choose the next batch from tasks in the order of their tags, without touching the queue.

    `max_tokens` is this batch's share of `limits.max_tokens`. Stops at the first task that does not fit, so that no
    task overtakes another. A first task over `max_tokens` runs alone (its context is large enough). Raises nothing: it
    runs on the worker thread, which must not die here.
    """
    taken: list[EmbedTask] = []
    dropped: list[EmbedTask] = []
    n_tokens = longest = 0
    for task in waiting:
        if task.request.cancelled:
            dropped.append(task)
            continue
        length = len(task.tokens)
        longest = max(longest, length)
        cost = (len(taken) + 1) * longest if limits.is_padded else n_tokens + length
        if taken and (len(taken) >= limits.max_sequences or cost > max_tokens):
            break
        taken.append(task)
        n_tokens += length
    return BatchPlan(taken, dropped, n_tokens)


def token_budget(limits: BatchLimits, n_waiting_tokens: int, n_idle_workers: int) -> int:
    """Tokens this worker should take: an equal share if others are idle, so that all cores work on one request.

    `n_idle_workers` includes the calling worker.
    """
    share = -(-n_waiting_tokens // max(1, n_idle_workers))
    return min(limits.max_tokens, max(share, limits.min_share_tokens))


def choose_threads(plan: ExecutionPlan, n_running: int, n_waiting: int) -> int:
    """Threads for one engine call: an equal share, or `alone_threads` if no other work is running or waiting.

    `n_running` is the number of other workers that are computing, `n_waiting` that of texts left in the queue.
    """
    if n_running == 0 and n_waiting == 0:
        return plan.alone_threads
    return max(1, plan.n_threads // plan.n_workers)


def weight_of(n_tokens: int, batch_tokens: int) -> float:
    """A request's weight: 1 if it fills a batch, more if it is smaller, because somebody waits for a short query."""
    return min(MAX_WEIGHT, max(1.0, batch_tokens / max(1, n_tokens)))


def finish_tags(virtual_time: float, lengths: Sequence[int], weight: float) -> list[float]:
    """When each text of a request would be finished, in virtual time (weighted fair queueing).

    Virtual time is the tokens that a waiting request of weight 1 would have got if all of them shared the workers by
    their weights. A request's tags begin there, so it waits for the batches that run and for its share: a short query
    goes before the rest of any number of bulk requests. No text starves, because virtual time passes its tag.
    """
    return [virtual_time + n_tokens / weight for n_tokens in accumulate(lengths)]
