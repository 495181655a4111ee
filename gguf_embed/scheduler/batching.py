"""Whose turn it is, and what the next batch holds. No clock, no lock, no thread."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from gguf_embed.engines.base import BatchLimits, ExecutionPlan
from gguf_embed.scheduler.task import BatchKey, EmbedTask, PendingRequest, Work
from gguf_embed.types import Caller, Priority

INTERACTIVE_WEIGHT = 4.0
"""A request of more weight is one that somebody waits for: a normal one below a quarter of `WEIGHT_TOKENS`, an urgent
one below all of them, but none of the lower classes."""

WEIGHT_TOKENS = 252
"""A request of so many tokens, or of a full batch if that is smaller, has its class's weight."""

MAX_WEIGHTS: Mapping[Priority, float] = {
    Priority.HIGH: 64.0,
    Priority.NORMAL: 16.0,
    Priority.LOW: 1.0,
    Priority.BATCH: 1 / 16,
}
"""What the smallest request of a class weighs: a low one not more than a large normal one, and one of a batch, which
nobody waits for, no more than its class."""

PRIORITY_WEIGHTS: Mapping[Priority, float] = {
    Priority.HIGH: 4.0,
    Priority.NORMAL: 1.0,
    Priority.LOW: 1 / 4,
    Priority.BATCH: 1 / 16,
}


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """The tasks to run now, and the cancelled ones to drop. Together they are the first of those that wait."""

    taken: Sequence[EmbedTask]
    dropped: Sequence[EmbedTask]
    n_tokens: int


def take_batch(waiting: Iterable[EmbedTask], limits: BatchLimits, max_tokens: int) -> BatchPlan:
    """Choose the next batch from tasks in turn. It ends before the first that is not in it.

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


def weight_of(n_tokens: int, batch_tokens: int, priority: Priority) -> float:
    """A request's weight: its class's if it is large, more if it is smaller, because somebody waits for it."""
    large = min(batch_tokens, WEIGHT_TOKENS)
    return min(MAX_WEIGHTS[priority], PRIORITY_WEIGHTS[priority] * max(1.0, large / max(1, n_tokens)))


def finish_tags(virtual_time: float, lengths: Sequence[int], weight: float) -> list[float]:
    """When each text of a request would be finished, in virtual time (weighted fair queueing).

    Virtual time is the tokens that a waiting request of weight 1 would have got if all those of its client shared the
    workers by their weights. A request's tags begin there, so it waits for the batches that run and for its share: a
    short query goes before the rest of any number of bulk requests. No text starves, because virtual time passes its
    tag.
    """
    return [virtual_time + n_tokens / weight for n_tokens in accumulate(lengths)]


@dataclass(slots=True, eq=False)
class Flow:
    """What one client has waiting in one class. Its requests share its part among them, see `finish_tags`.

    Its weight among the flows is that of the request whose text is next.
    """

    caller: Caller
    number: int  # of arrival, to break ties
    start: float  # when its next text would start, in the virtual time of the whole queue
    texts: dict[BatchKey, list[EmbedTask]] = field(default_factory=dict)  # heaps, none empty
    virtual_time: float = 0.0  # of its requests, in tokens
    weights: float = 0.0  # the sum of its requests'

    def turn(self, task: EmbedTask) -> tuple[float, int]:
        """When a text would be finished if it were next."""
        return self.start + len(task.tokens) / task.request.weight, self.number


class FairQueue:
    """Weighted fair queueing on two levels. A flow that has nothing to run is forgotten, and starts anew later.

    Virtual time is what a flow of weight 1 that always waits would have got, in tokens. A flow's first text starts
    there, so a client that comes goes before those that had their share. No text starves, because virtual time passes
    the turn of every text.
    """

    def __init__(self, plan: ExecutionPlan) -> None:
        self._plan = plan
        self._flows: dict[Caller, Flow] = {}
        self._held: dict[str, int] = {}  # client → tokens
        self._cancelled: set[PendingRequest] = set()  # that have texts here
        self._virtual_time = 0.0
        self._n_flows_seen = 0
        self._n_texts_seen = 0
        self.n_texts = 0
        self.n_tokens = 0
        self.n_reserved = 0  # tokens of requests admitted on the reserve

    @property
    def n_clients(self) -> int:
        return len(self._held)

    def held(self, client: str) -> int:
        """Tokens of one client."""
        return self._held.get(client, 0)

    def add(self, work: Work) -> None:
        """Add all texts of a request."""
        request, lengths = work.request, work.lengths
        limits, max_tokens = self._plan.limits, self._plan.contexts.max_tokens
        keys = BatchKey(work.output, long=False), BatchKey(work.output, long=True)
        flow = self._flows.get(request.caller)
        if flow is None:
            flow = self._flows[request.caller] = Flow(request.caller, self._n_flows_seen, self._virtual_time)
            self._n_flows_seen += 1
        order: Sequence[int] = range(len(lengths))
        in_order = lengths
        if limits.by_length:
            order, in_order = sorted(order, key=lengths.__getitem__), sorted(lengths)
        request.weight = weight_of(work.n_tokens, limits.max_tokens, request.caller.priority)
        for index, tag in zip(order, finish_tags(flow.virtual_time, in_order, request.weight), strict=True):
            key = keys[lengths[index] > max_tokens]
            task = EmbedTask(tag, self._n_texts_seen, key, work.texts[index], request, index)
            heapq.heappush(flow.texts.setdefault(key, []), task)
            self._n_texts_seen += 1
        request.n_waiting = len(lengths)
        flow.weights += request.weight
        client = request.caller.client
        self._held[client] = self._held.get(client, 0) + work.n_tokens
        self.n_texts += len(lengths)
        self.n_tokens += work.n_tokens
        self.n_reserved += work.n_tokens if request.on_reserve else 0

    def waiting(self) -> Iterator[EmbedTask]:
        """All texts, in no order."""
        return (task for flow in self._flows.values() for tasks in flow.texts.values() for task in tasks)

    def next_text(self, *, may_be_long: bool) -> EmbedTask | None:
        """The text whose turn it is."""
        first: tuple[float, int] | None = None
        found: EmbedTask | None = None
        for flow in self._flows.values():
            head: EmbedTask | None = None
            for key, tasks in flow.texts.items():
                if (may_be_long or not key.long) and (head is None or tasks[0] < head):
                    head = tasks[0]
            if head is not None:
                turn = flow.turn(head)
                if first is None or turn < first:
                    first, found = turn, head
        return found

    def take(self, key: BatchKey, limits: BatchLimits, max_tokens: int) -> BatchPlan:
        """Take the texts of one key in turn, as many as a batch holds, see `take_batch`.

        Those that wait now share this batch, so virtual time advances by their weights.
        """
        weights, inner_weights = 0.0, {}
        for flow in self._flows.values():
            inner_weights[flow.caller] = flow.weights
            heaviest = 0.0
            for tasks in flow.texts.values():
                heaviest = max(heaviest, tasks[0].request.weight)
            weights += heaviest
        plan = take_batch(self._in_turn(key), limits, max_tokens)
        self._virtual_time += plan.n_tokens / weights
        if self._flows:
            for task in plan.taken:
                caller = task.request.caller
                if caller in self._flows:
                    self._flows[caller].virtual_time += len(task.tokens) / inner_weights[caller]
        return plan

    def _in_turn(self, key: BatchKey) -> Iterator[EmbedTask]:
        """A text leaves the queue when the one after it is asked for."""
        turns = []
        for flow in self._flows.values():
            if key in flow.texts:
                turns.append((flow.turn(flow.texts[key][0]), flow))
        heapq.heapify(turns)
        while turns:
            (end, _), flow = turns[0]
            tasks = flow.texts[key]
            yield tasks[0]
            task = heapq.heappop(tasks)
            if not task.request.cancelled:
                flow.start = end
            self._count_out(flow, task)
            if tasks:
                heapq.heapreplace(turns, (flow.turn(tasks[0]), flow))
            else:
                heapq.heappop(turns)

    def _count_out(self, flow: Flow, task: EmbedTask) -> None:
        """After a text was removed from its heap."""
        request, n_tokens, client = task.request, len(task.tokens), flow.caller.client
        self.n_texts -= 1
        self.n_tokens -= n_tokens
        self.n_reserved -= n_tokens if request.on_reserve else 0
        left = self._held.get(client, 0) - n_tokens
        if left:
            self._held[client] = left
        else:
            self._held.pop(client, None)
        request.n_waiting -= 1
        if not request.n_waiting:
            flow.weights -= request.weight
            self._cancelled.discard(request)
        if task.key in flow.texts and not flow.texts[task.key]:
            del flow.texts[task.key]
            if not flow.texts:
                del self._flows[flow.caller]

    def cancel(self, request: PendingRequest) -> None:
        """Its texts never run. Those that wait leave with the next `drop_cancelled`, or when it is their turn."""
        request.cancelled = True
        if request.n_waiting:
            self._cancelled.add(request)

    def drop_cancelled(self) -> bool:
        """Remove texts whose client has disconnected: in a full queue they would keep other clients out.

        Looks only at the texts of callers that have cancelled a request. Returns whether there were any.
        """
        n_before = self.n_texts
        for caller in {request.caller for request in self._cancelled}:
            flow = self._flows[caller]
            for tasks in list(flow.texts.values()):
                gone = [task for task in tasks if task.request.cancelled]
                tasks[:] = [task for task in tasks if not task.request.cancelled]
                heapq.heapify(tasks)
                for task in gone:
                    self._count_out(flow, task)
        return self.n_texts < n_before

    def clear(self) -> Sequence[EmbedTask]:
        """Remove everything, and return it."""
        everything = [task for flow in self._flows.values() for tasks in flow.texts.values() for task in tasks]
        self._flows.clear()
        self._held.clear()
        self._cancelled.clear()
        self.n_texts = self.n_tokens = self.n_reserved = 0
        return everything
