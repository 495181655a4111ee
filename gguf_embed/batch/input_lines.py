"""The lines of an input, as they are read: small ones at once, large ones when there is memory for them."""

from __future__ import annotations

import asyncio
import codecs
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from io import BufferedIOBase
from typing import Protocol

LARGE_LINE_BYTES = 2**18
"""Lines over this size are read and parsed one by one, in the memory that the server has for large bodies."""

_AROUND_BODY_BYTES = 4096
"""What a line may have around its body."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the input. `number` counts from 1, as an editor does; `raw` is None for a line that is too long."""

    number: int
    raw: bytes | bytearray | None


@dataclass(frozen=True, slots=True)
class LargeLine:
    """A line over `LARGE_LINE_BYTES`, which is not in memory yet. `begin`: its first byte in the file."""

    number: int
    begin: int
    n_bytes: int


class HasLines(Protocol):
    """A stream, from its beginning."""

    def readline(self, size: int, /) -> bytes: ...


LineRoom = Callable[[int], AbstractAsyncContextManager[asyncio.Lock]]
"""The bytes of a large line → waits until there is memory for it, and holds that until the end. Gives the lock that is
held while the line is parsed."""


@asynccontextmanager
async def unlimited_room(n_bytes: int) -> AsyncIterator[asyncio.Lock]:
    """The room of a process that does nothing else."""
    yield asyncio.Lock()


def read_lines(stream: HasLines, max_body_bytes: int) -> Iterator[Line | LargeLine]:
    """The lines that are not blank. Holds `LARGE_LINE_BYTES` in memory, and of a larger line only its place."""
    max_bytes = max_body_bytes + _AROUND_BODY_BYTES
    n_small = min(LARGE_LINE_BYTES, max_bytes)
    number = begin = 0
    while raw := stream.readline(n_small + 1):
        number += 1
        n_bytes = len(raw)
        if n_bytes <= n_small:
            text = raw.removeprefix(codecs.BOM_UTF8) if number == 1 else raw
            if text.strip():
                yield Line(number, text)
        else:
            is_blank = raw.isspace()
            while raw and not raw.endswith(b"\n"):
                raw = stream.readline(n_small)
                n_bytes += len(raw)
                is_blank = is_blank and not raw.strip()
            if n_bytes > max_bytes:
                yield Line(number, None)
            elif not is_blank:
                yield LargeLine(number, begin, n_bytes)
        begin += n_bytes


def read_large(stream: BufferedIOBase, line: LargeLine) -> Line:
    """The line with its bytes, which may be changed. The stream is at the end of the line before and after. Blocks."""
    stream.seek(line.begin)
    raw = bytearray()
    while some := stream.read(min(LARGE_LINE_BYTES, line.n_bytes - len(raw))):
        raw += some  # not all at once: making so large an array holds the interpreter's lock
    return Line(line.number, raw)
