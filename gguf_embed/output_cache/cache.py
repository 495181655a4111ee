"""Answers texts from what was computed before, or is being computed for another request; computes the others.

An entry is what the engine returned for one sequence of token ids, before it is cut, normalized or quantized: all
forms of a reply share it. Only vectors and scores are kept, one row per text; rows of tokens would take too much.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import numpy as np

from gguf_embed.errors import EmbedError
from gguf_embed.metrics import Metrics
from gguf_embed.output_cache.disk import DiskRows
from gguf_embed.output_cache.keys import text_keys
from gguf_embed.output_cache.lru import LruTable
from gguf_embed.scheduler.scheduler import Scheduler, Submission
from gguf_embed.types import CALLER, DENSE, SCORES, Caller, Output, OutputSpec, Priority
from gguf_embed.vectors import Rows

KINDS = (DENSE, SCORES)

ENTRY_BYTES = 600
"""What an entry takes besides its numbers, measured: key, array, and places in the table."""

_URGENCY = {priority: number for number, priority in enumerate(Priority)}  # 0: the most urgent

Texts = Mapping[bytes, Sequence[int]]
"""Token sequences by key."""


class CachedModel(Protocol):
    """What the cache needs of a loaded model."""

    @property
    def cache_key(self) -> str:
        """The same only for the same file and the same way of computing; "": its outputs are not kept."""
        ...

    @property
    def scheduler(self) -> Scheduler: ...


@dataclass(slots=True)
class _Answers:
    """What is known about a request's texts."""

    outputs: dict[bytes, Output] = field(default_factory=dict)
    errors: dict[bytes, EmbedError] = field(default_factory=dict)
    queue_s: float = 0.0
    compute_s: float = 0.0
    n_from_disk: int = 0

    def add(self, other: _Answers, keys: Texts) -> None:
        """Take over what `other` has about `keys`, which must all be in it."""
        for key in keys:
            if key in other.outputs:
                self.outputs[key] = other.outputs[key]
            else:
                self.errors[key] = other.errors[key]
        self.queue_s = max(self.queue_s, other.queue_s)
        self.compute_s = max(self.compute_s, other.compute_s)


@dataclass(slots=True, eq=False)
class _Flight:
    """Texts that are computed now, and how many requests wait for them. Without one, it is cancelled."""

    task: asyncio.Task[_Answers]
    scheduler: Scheduler
    caller: Caller
    n_tokens: int
    n_waiting: int = 0

    def suits(self, scheduler: Scheduler, caller: Caller, n_tokens: int) -> bool:
        """Whether a request with so many tokens to compute may wait for it, and is answered no later.

        It came earlier. If it is the same client's, no larger and no less urgent, then it is also done earlier.
        """
        is_as_urgent = _URGENCY[self.caller.priority] <= _URGENCY[caller.priority]
        is_own = self.scheduler is scheduler and self.caller.client == caller.client
        return is_own and is_as_urgent and self.n_tokens <= n_tokens and not self.task.done()


class OutputCache:
    """The outputs of all models. Belongs to one event loop."""

    def __init__(self, memory_bytes: int, metrics: Metrics, disk: DiskRows | None = None) -> None:
        self._memory: LruTable[Rows] = LruTable(memory_bytes)
        self._disk = disk
        self._metrics = metrics
        self._flights: dict[bytes, _Flight] = {}  # by the keys of their texts

    async def submit(self, model: CachedModel, texts: Sequence[Sequence[int]], output: OutputSpec) -> Submission:
        """As `Scheduler.submit`, for the caller of this task."""
        caller = CALLER.get()
        if caller.cache_scope is None or not model.cache_key or output.kind not in KINDS:
            return await model.scheduler.submit(texts, output)
        keys = text_keys(model.cache_key, caller.cache_scope, output, texts)
        answers = _Answers()
        missing: dict[bytes, Sequence[int]] = {}
        n_hits = 0
        for key, tokens in zip(keys, texts, strict=True):
            kept = self._memory.get(key)
            if kept is None:
                missing[key] = tokens
            else:
                answers.outputs[key] = kept
                n_hits += 1
        n_joined = await self._compute(model.scheduler, missing, output, caller, answers) if missing else 0
        n_missed = len(missing) - n_joined - answers.n_from_disk
        self._metrics.observe_cache(n_hits, answers.n_from_disk, n_joined, n_missed)
        return Submission(
            [answers.outputs.get(key) for key in keys],
            list(map(len, texts)),
            answers.queue_s,
            answers.compute_s,
            {index: answers.errors[key] for index, key in enumerate(keys) if key in answers.errors},
        )

    async def _compute(
        self, scheduler: Scheduler, missing: Texts, output: OutputSpec, caller: Caller, answers: _Answers
    ) -> int:
        """Compute the missing texts, or wait until others have. Returns how many others have computed."""
        n_tokens = sum(map(len, missing.values()))
        joined: dict[_Flight, dict[bytes, Sequence[int]]] = {}
        own: dict[bytes, Sequence[int]] = {}
        for key, tokens in missing.items():
            flight = self._flights.get(key)
            if flight is not None and flight.suits(scheduler, caller, n_tokens):
                joined.setdefault(flight, {})[key] = tokens
            else:
                own[key] = tokens
        started = self._start(scheduler, own, output, caller) if own else None
        await _wait_for([*joined, *([started] if started is not None else [])])
        n_joined = 0
        left: dict[bytes, Sequence[int]] = {}
        for flight, texts in joined.items():
            if flight.task.cancelled() or flight.task.exception() is not None:
                left |= texts  # refused, too late, or in a hurry: that concerns only the request that began it
            else:
                answers.add(flight.task.result(), texts)
                n_joined += len(texts)
        if started is not None:
            self._take(started, own, answers)
        if left:
            again = self._start(scheduler, left, output, caller)
            await _wait_for([again])
            self._take(again, left, answers)
        return n_joined

    def _take(self, flight: _Flight, texts: Texts, answers: _Answers) -> None:
        """Raises the error of the whole submission, if there is one."""
        result = flight.task.result()
        answers.add(result, texts)
        answers.n_from_disk += result.n_from_disk

    def _start(self, scheduler: Scheduler, texts: Texts, output: OutputSpec, caller: Caller) -> _Flight:
        task = asyncio.get_running_loop().create_task(self._run(scheduler, texts, output))
        flight = _Flight(task, scheduler, caller, sum(map(len, texts.values())))
        self._flights.update(dict.fromkeys(texts, flight))
        task.add_done_callback(partial(self._land, flight, texts))
        return flight

    def _land(self, flight: _Flight, texts: Texts, task: asyncio.Task[_Answers]) -> None:
        for key in texts:
            if self._flights.get(key) is flight:
                del self._flights[key]
        if not task.cancelled():
            task.exception()  # mark it as retrieved: perhaps nobody waits any more
        self._metrics.set_cache(len(self._memory), self._memory.n_bytes)

    async def _run(self, scheduler: Scheduler, texts: Texts, output: OutputSpec) -> _Answers:
        answers = _Answers()
        if self._disk is not None:
            for key, row in (await self._disk.read(list(texts))).items():
                answers.outputs[key] = self._keep(key, output.kind, np.frombuffer(row, "<f4")[np.newaxis])
            answers.n_from_disk = len(answers.outputs)
            texts = {key: tokens for key, tokens in texts.items() if key not in answers.outputs}
            if not texts:
                return answers
        submission = await scheduler.submit(list(texts.values()), output)
        answers.queue_s, answers.compute_s = submission.queue_s, submission.compute_s
        rows: dict[bytes, bytes] = {}
        for index, (key, found) in enumerate(zip(texts, submission.outputs, strict=True)):
            if isinstance(found, Rows):
                answers.outputs[key] = self._keep(key, found.kind, found.matrix.copy())
                if self._disk is not None:
                    rows[key] = found.matrix.astype("<f4").tobytes()
            elif found is None:
                answers.errors[key] = submission.failures[index]
            else:
                answers.outputs[key] = found
        if self._disk is not None and rows:
            self._disk.write(rows)
        return answers

    def _keep(self, key: bytes, kind: str, matrix: np.ndarray) -> Rows:
        """Keep the one row of a text: a copy, which nobody may write into."""
        matrix.flags.writeable = False
        rows = Rows(kind, matrix, (0, len(matrix)))
        n_evicted = self._memory.put(key, rows, matrix.nbytes + ENTRY_BYTES)
        if n_evicted:
            self._metrics.observe_cache_evictions(n_evicted)
        return rows

    def close(self) -> None:
        """Blocks until the disk has everything."""
        if self._disk is not None:
            self._disk.close()


async def _wait_for(flights: Sequence[_Flight]) -> None:
    """Wait until all are done. If this request is cancelled, those that nobody else waits for are, too."""
    for flight in flights:
        flight.n_waiting += 1
    try:
        await asyncio.wait([flight.task for flight in flights])
    finally:
        for flight in flights:
            flight.n_waiting -= 1
            if not flight.n_waiting:
                flight.task.cancel()  # no effect after it is done
