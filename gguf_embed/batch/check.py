"""Checks the whole input of a batch before anything is computed."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path

from gguf_embed.batch.input_lines import HasLines, LargeLine, Line, read_large, read_lines
from gguf_embed.batch.lines import BadLine, Rules, parse_line
from gguf_embed.batch.records import BatchLimits, LineError
from gguf_embed.batch.threads import on_thread

MAX_ERRORS = 100
"""How many wrong lines a failed batch lists."""

_LINES_PER_TURN = 32


@dataclass(frozen=True, slots=True)
class Checked:
    """The result of reading a whole input. Without errors it can be computed."""

    n_requests: int
    errors: tuple[LineError, ...]
    model: str | None  # of the first line
    sha256: str


class _Hashed:
    """A stream whose bytes are hashed as they are read."""

    def __init__(self, stream: HasLines) -> None:
        self._stream = stream
        self.sha256 = hashlib.sha256()

    def readline(self, limit: int, /) -> bytes:
        raw = self._stream.readline(limit)
        self.sha256.update(raw)
        return raw


class InputCheck:
    """Checks the lines of one input, in their order. Memory grows with their number only, by about 100 bytes each."""

    def __init__(self, stream: BufferedIOBase, rules: Rules) -> None:
        self._stream = stream
        self._rules = rules
        self._hashed = _Hashed(stream)
        self._lines = read_lines(self._hashed, rules.limits.max_line_bytes)
        self._seen: set[bytes] = set()
        self._errors: list[LineError] = []
        self._n_requests = self._n_inputs = 0
        self._model: str | None = None

    def add_small(self) -> LargeLine | None:
        """Check the lines up to the next large one, and return that; None at the end. May take seconds."""
        for line in self._lines:
            if isinstance(line, LargeLine):
                return line
            self._add(line)
        return None

    def add_large(self, line: LargeLine) -> None:
        """Read and check the line that `add_small` returned."""
        self._add(read_large(self._stream, line))

    def _add(self, line: Line) -> None:
        self._n_requests += 1
        if self._n_requests % _LINES_PER_TURN == 0:
            time.sleep(0)  # lets the event loop have the interpreter at once
        try:
            request = parse_line(line, self._rules)
            self._note_id(request.custom_id)
        except BadLine as bad:
            if len(self._errors) < MAX_ERRORS:
                self._errors.append(LineError(bad.code, bad.message, line.number, bad.param))
            return
        self._n_inputs += self._rules.count_inputs(request.url, request.body)
        if self._model is None and isinstance(request.body.get("model"), str):
            self._model = str(request.body["model"])

    def _note_id(self, custom_id: str) -> None:
        digest = hashlib.blake2b(custom_id.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        if digest in self._seen:
            raise BadLine("duplicate_custom_id", "an earlier line has the same custom_id", "custom_id")
        self._seen.add(digest)

    def result(self) -> Checked:
        """What was found, at the end."""
        errors = (*_of_all(self._n_requests, self._n_inputs, self._rules.limits), *self._errors)
        return Checked(self._n_requests, errors, self._model, self._hashed.sha256.hexdigest())


def check_input(stream: BufferedIOBase, rules: Rules) -> Checked:
    """Read all lines, large ones without asking for room. Blocks."""
    check = InputCheck(stream, rules)
    while (large := check.add_small()) is not None:
        check.add_large(large)
    return check.result()


async def check_source(source: Path, rules: Rules) -> Checked:
    """`check_input` of a file, on a thread; large lines wait for their room. Raises `OSError`."""
    with source.open("rb") as stream:
        check = InputCheck(stream, rules)
        while (large := await on_thread(check.add_small)) is not None:
            async with rules.room(large.n_bytes) as parsing, parsing:
                await on_thread(check.add_large, large)
        return check.result()


def _of_all(n_requests: int, n_inputs: int, limits: BatchLimits) -> Iterator[LineError]:
    """What is wrong with the input as a whole."""
    if n_requests == 0:
        yield LineError("empty_file", "the input file has no lines: write one request per line")
    if limits.max_requests is not None and n_requests > limits.max_requests:
        yield LineError(
            "too_many_requests",
            f"the input file has {n_requests} requests, the limit is {limits.max_requests}: split it",
        )
    if limits.max_inputs is not None and n_inputs > limits.max_inputs:
        yield LineError(
            "too_many_inputs", f"the input file has {n_inputs} inputs, the limit is {limits.max_inputs}: split it"
        )
