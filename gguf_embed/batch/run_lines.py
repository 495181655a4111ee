"""Computes the lines of one input that are not finished, many at once, and writes them in the order of the input."""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from gguf_embed.batch.line_log import Results
from gguf_embed.batch.lines import LineReply, LineRequest, Rules, parse_line, read_lines, request_id
from gguf_embed.errors import Unavailable

Answer = Callable[[LineRequest, str], Awaitable[LineReply]]
"""Sends a line to its route. The second argument is the id of the request."""

INPUTS_AT_ONCE = 2048
"""How many inputs are in flight, unless a single line has more: enough to fill every worker's batches."""

LINES_AT_ONCE = 512
CHUNK_LINES, CHUNK_BYTES = 256, 2**20
"""How much of the input is read and parsed at once, on a thread."""

FIRST_PAUSE_S, MAX_PAUSE_S = 0.5, 30.0

_InFlight = deque[tuple[LineRequest, "asyncio.Task[LineReply]", int]]


@dataclass(frozen=True, slots=True)
class LineRun:
    """What one run needs."""

    source: Path
    rules: Rules
    results: Results
    answer: Answer
    take: Callable[[int], None]  # called with the bytes that will be written
    patience_s: float = float("inf")  # how long one line is sent again while nothing is wrong with it


async def run_lines(run: LineRun) -> None:
    """Compute and write all lines that are not finished. If it is cancelled, what is computed is written.

    Raises `Unavailable` if the patience ends, `OSError`, and what `run.take` raises.
    """
    in_flight: _InFlight = deque()
    n_inputs = 0
    try:
        async for request in _unfinished(run):
            cost = max(1, run.rules.count_inputs(request.url, request.body))
            while in_flight and (n_inputs + cost > INPUTS_AT_ONCE or len(in_flight) >= LINES_AT_ONCE):
                n_inputs -= await _write_first(run, in_flight)
            in_flight.append((request, asyncio.create_task(_answered(run, request)), cost))
            n_inputs += cost
        while in_flight:
            await _write_first(run, in_flight)
    finally:
        await _abandon(run, in_flight)


async def _write_first(run: LineRun, in_flight: _InFlight) -> int:
    """Wait for the first line, and write it with those after it that are finished: the inputs that they have."""
    await asyncio.wait([in_flight[0][1]])
    in_flight[0][1].result()  # raises its error, if it has one
    finished: list[tuple[LineRequest, LineReply]] = []
    n_inputs = 0
    while in_flight and in_flight[0][1].done() and in_flight[0][1].exception() is None:
        request, task, cost = in_flight.popleft()
        finished.append((request, task.result()))
        n_inputs += cost
    await _write(run, finished)
    return n_inputs


async def _abandon(run: LineRun, in_flight: _InFlight) -> None:
    """Write what is computed, and drop the rest."""
    tasks = [task for _, task, _ in in_flight]
    finished = [(request, task.result()) for request, task, _ in in_flight if task.done() and task.exception() is None]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    if finished:
        await _write(run, finished)


async def _write(run: LineRun, finished: list[tuple[LineRequest, LineReply]]) -> None:
    # shielded: a write that has begun must be counted, or the line would be written twice
    writing = asyncio.ensure_future(asyncio.to_thread(run.results.write, finished, run.take))
    try:
        await asyncio.shield(writing)
    except asyncio.CancelledError:
        await asyncio.wait([writing])
        raise


async def _answered(run: LineRun, request: LineRequest) -> LineReply:
    """The answer, after as many tries as the server needs to have room."""
    began_s, pause_s = time.monotonic(), FIRST_PAUSE_S
    while True:
        reply = await run.answer(request, request_id(run.results.key, request.number))
        if reply.retry_after_s is None:
            return reply
        if time.monotonic() - began_s > run.patience_s:
            raise Unavailable(f"line {request.number} got no answer but {reply.body.decode()}")
        await asyncio.sleep(max(reply.retry_after_s, pause_s) * random.uniform(0.8, 1.2))
        pause_s = min(MAX_PAUSE_S, 2 * pause_s)


async def _unfinished(run: LineRun) -> AsyncIterator[LineRequest]:
    """The requests of the input that have no result. It is read and parsed on a thread, in small parts."""
    stream = await asyncio.to_thread(run.source.open, "rb")
    try:
        requests = left_requests(stream, run.rules, run.results)
        while chunk := await asyncio.to_thread(_take, requests):
            for request, _ in chunk:
                yield request
    finally:
        stream.close()


def left_requests(stream: BinaryIO, rules: Rules, results: Results) -> Iterator[tuple[LineRequest, int]]:
    """Each request that has no result, and the bytes of its line. The input has been checked."""
    for line in read_lines(stream, rules.limits.max_line_bytes):
        if not results.has(line.number):
            yield parse_line(line, rules), len(line.raw or b"")


def _take(requests: Iterator[tuple[LineRequest, int]]) -> list[tuple[LineRequest, int]]:
    taken: list[tuple[LineRequest, int]] = []
    n_bytes = 0
    for request, n_line_bytes in requests:
        taken.append((request, n_line_bytes))
        n_bytes += n_line_bytes
        if len(taken) == CHUNK_LINES or n_bytes >= CHUNK_BYTES:
            break
    return taken


def write_left(run: LineRun, code: str, message: str) -> None:
    """Write an error for each request that has no result. Blocks. Raises `OSError`, and what `run.take` raises."""
    with run.source.open("rb") as stream:
        requests = left_requests(stream, run.rules, run.results)
        while chunk := _take(requests):
            run.results.write_left([request for request, _ in chunk], code, message, run.take)
