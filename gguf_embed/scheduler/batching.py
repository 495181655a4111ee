"""Pure decisions: in which order texts are due, and what the next batch holds. No clock, no lock, no thread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gguf_embed.engines.base import BatchLimits, ExecutionPlan
from gguf_embed.scheduler.task import EmbedTask


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """The first `n_taken` of the candidates less the dropped ones; `dropped` are cancelled and never run."""

    taken: Sequence[EmbedTask]
    dropped: Sequence[EmbedTask]
    n_tokens: int


def take_batch(waiting: Sequence[EmbedTask], limits: BatchLimits, max_tokens: int) -> BatchPlan:
    """Choose the next batch from tasks in due order, without touching the queue.

    `max_tokens` is this batch's share of `limits.max_tokens`. Stops at the first task that does not fit, so nothing is
    overtaken; a first task over `max_tokens` goes alone (its context is sized for it). Raises nothing: it runs on the
    worker thread, which must not die here.
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
    """Tokens this worker should take: an equal share when others are idle, so that all cores work on one request.

    `n_idle_workers` counts the asking worker too.
    """
    share = -(-n_waiting_tokens // max(1, n_idle_workers))
    return min(limits.max_tokens, max(share, limits.min_share_tokens))


def choose_threads(plan: ExecutionPlan, n_running: int, n_waiting: int) -> int:
    """Threads for one engine call: an equal share, or as many as pay when this worker is alone with the work.

    `n_running` counts other workers that compute now, `n_waiting` the texts left in the queue.
    """
    if n_running == 0 and n_waiting == 0:
        return plan.alone_threads
    return max(1, plan.n_threads // plan.n_workers)


def due_times(now_s: float, lengths: Sequence[int], tokens_per_s: float) -> list[float]:
    """When each text of one request is due: when this request alone, on an idle server, would have reached it.

    Ordering by it lets a short query overtake the tail of a bulk request but never its head, and nothing waits for
    ever: a due time is fixed at admission, while new requests get later ones.
    """
    due: list[float] = []
    n_before = 0
    for length in lengths:
        due.append(now_s + n_before / tokens_per_s)
        n_before += length
    return due
