"""Computes the lines of one input that are not finished, many at once, and writes them in the order of the input."""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field
from io import BufferedIOBase
from pathlib import Path

from gguf_embed.batch.input_lines import LARGE_LINE_BYTES, LargeLine, Line, read_large, read_lines
from gguf_embed.batch.line_log import Results, Taken
from gguf_embed.batch.lines import LineReply, LineRequest, Rules, parse_line, request_id
from gguf_embed.batch.threads import on_thread
from gguf_embed.errors import Unavailable

Answer = Callable[[LineRequest, str], Awaitable[LineReply]]
"""Sends a line to its route. The second argument is the id of the request."""

INPUTS_AT_ONCE, BYTES_AT_ONCE = 1024, 2**17
"""What is in flight, unless a single line has more: enough to fill every worker's batches, and no more of the queue."""

CHUNK_LINES, CHUNK_BYTES = 256, 2**20
"""How much of the input is read and parsed at once, on a thread."""

FIRST_PAUSE_S, MAX_PAUSE_S = 0.5, 30.0

_Read = tuple[LineRequest, int]
"""A request, and the bytes of its line."""


@dataclass(frozen=True, slots=True)
class _Line:
    """A line that is being computed."""

    request: LineRequest
    answer: asyncio.Task[LineReply]
    n_inputs: int
    n_bytes: int


@dataclass(slots=True)
class _InFlight:
    """The lines that are being computed or not written yet, in the order of the input."""

    lines: deque[_Line] = field(default_factory=deque)
    n_inputs: int = 0
    n_bytes: int = 0

    def has_room(self, n_inputs: int, n_bytes: int) -> bool:
        fits = self.n_inputs + n_inputs <= INPUTS_AT_ONCE and self.n_bytes + n_bytes <= BYTES_AT_ONCE
        return fits or not self.lines

    def add(self, line: _Line) -> None:
        self.lines.append(line)
        self.n_inputs += line.n_inputs
        self.n_bytes += line.n_bytes

    def take_first(self) -> tuple[LineRequest, LineReply]:
        """Remove the first line, which has its answer."""
        line = self.lines.popleft()
        self.n_inputs -= line.n_inputs
        self.n_bytes -= line.n_bytes
        return line.request, line.answer.result()

    def take_answered(self) -> list[tuple[LineRequest, LineReply]]:
        """Remove the lines up to the first one that has no answer."""
        taken: list[tuple[LineRequest, LineReply]] = []
        while self.lines and _is_good(self.lines[0].answer):
            taken.append(self.take_first())
        return taken


@dataclass(frozen=True, slots=True)
class LineRun:
    """What one run needs."""

    source: Path
    rules: Rules
    results: Results
    answer: Answer
    taken: Taken  # of the bytes that are written
    patience_s: float = float("inf")  # how long one line is sent again while nothing is wrong with it


async def run_lines(run: LineRun) -> None:
    """Compute and write all lines that are not finished. If it is cancelled, what is computed up to the first line
    without an answer is written, so that the output stays in the order of the input.

    Raises `Unavailable` if the patience ends, `OSError`, and what `run.taken` raises.
    """
    in_flight = _InFlight()
    async with aclosing(_unfinished(run)) as chunks:
        try:
            async for chunk in chunks:
                await _send(run, in_flight, chunk)
            while in_flight.lines:
                await _write_first(run, in_flight)
        finally:
            await _abandon(run, in_flight)


async def _send(run: LineRun, in_flight: _InFlight, chunk: deque[_Read]) -> None:
    """Begin to compute lines, each when there is room for it. Takes them out of `chunk`. Returns when a large one,
    whose memory is limited, is written."""
    while chunk:
        request, n_bytes = chunk.popleft()
        n_inputs = max(1, run.rules.count_inputs(request.url, request.body))
        while not in_flight.has_room(n_inputs, n_bytes):
            await _write_first(run, in_flight)
        in_flight.add(_Line(request, asyncio.create_task(_answered(run, request)), n_inputs, n_bytes))
    while in_flight.n_bytes > LARGE_LINE_BYTES:
        await _write_first(run, in_flight)


async def _write_first(run: LineRun, in_flight: _InFlight) -> None:
    """Wait for the first line, and write it with those after it that are answered. Raises what answering it raised."""
    first = in_flight.lines[0].answer
    await asyncio.wait([first])
    first.result()
    await _write(run, in_flight.take_answered())


async def _abandon(run: LineRun, in_flight: _InFlight) -> None:
    """Write what is computed up to the first line without an answer, and drop the rest."""
    finished, left = in_flight.take_answered(), in_flight.lines
    for line in left:
        line.answer.cancel()
    await asyncio.gather(*(line.answer for line in left), return_exceptions=True)
    if finished:
        await _write(run, finished)


def _is_good(answer: asyncio.Task[LineReply]) -> bool:
    return answer.done() and not answer.cancelled() and answer.exception() is None


async def _write(run: LineRun, finished: list[tuple[LineRequest, LineReply]]) -> None:
    # on a thread that is awaited: a write that has begun must be counted, or the line would be written twice
    await on_thread(run.results.write, finished, run.taken)


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


async def _unfinished(run: LineRun) -> AsyncGenerator[deque[_Read]]:
    """The requests without a result, in small parts that are read and parsed on a thread. A large one is a part by
    itself, and has its room until the next part is asked for."""
    with run.source.open("rb") as stream:
        lines = _left_lines(stream, run.rules, run.results)
        while True:
            chunk, large = await on_thread(_take, lines, run.rules)
            if not chunk and large is None:
                return
            yield chunk
            if large is not None:
                async with run.rules.room(large.n_bytes) as parsing:
                    async with parsing:
                        chunk = deque([await on_thread(_read_large, stream, large, run.rules)])
                    yield chunk


def _left_lines(stream: BufferedIOBase, rules: Rules, results: Results) -> Iterator[Line | LargeLine]:
    """Each line that has no result. The input has been checked."""
    return (line for line in read_lines(stream, rules.limits.max_line_bytes) if not results.has(line.number))


def _take(lines: Iterator[Line | LargeLine], rules: Rules) -> tuple[deque[_Read], LargeLine | None]:
    """The next requests, and the large line after them, if that ended this part."""
    taken: deque[_Read] = deque()
    n_bytes = 0
    for line in lines:
        if isinstance(line, LargeLine):
            return taken, line
        taken.append((parse_line(line, rules), len(line.raw or b"")))
        n_bytes += taken[-1][1]
        if len(taken) == CHUNK_LINES or n_bytes >= CHUNK_BYTES:
            break
    return taken, None


def _read_large(stream: BufferedIOBase, large: LargeLine, rules: Rules) -> _Read:
    return parse_line(read_large(stream, large), rules), large.n_bytes


async def write_left(run: LineRun, code: str, message: str) -> None:
    """Write an error for each request that has no result. Raises `OSError`, and what `run.taken` raises."""
    async with aclosing(_unfinished(run)) as chunks:
        async for chunk in chunks:
            await on_thread(run.results.write_left, [request for request, _ in chunk], code, message, run.taken)
            chunk.clear()
