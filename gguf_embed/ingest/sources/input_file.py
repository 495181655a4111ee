"""Reading a file's lines, decompressed as its name says: .gz, .zst, .bz2, .lz4."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa

from gguf_embed.errors import EngineFailure
from gguf_embed.ingest.sources.documents import MAX_TEXT_BYTES

COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2", ".lz4": "lz4"}

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
BUFFER_BYTES = 1 << 18


class InputFile:
    """An open file, without the byte order mark at its beginning."""

    def __init__(self, path: Path, place: str) -> None:
        """`place` is the file's name in errors."""
        self.place = place
        self.size = 0
        compression = COMPRESSIONS.get(path.suffix.lower())
        with failures(place):
            self.size = path.stat().st_size
            self._raw = pa.OSFile(str(path)) if compression else path.open("rb", buffering=0)
            stream = pa.CompressedInputStream(self._raw, compression) if compression else self._raw
            self.stream = io.BufferedReader(stream, BUFFER_BYTES)
            try:
                skip_byte_order_mark(self.stream)
            except BaseException:
                self.close()
                raise

    def share_read(self) -> float:
        """Of the bytes on the disk."""
        if self.stream.closed:
            return 0.0
        return min(1.0, self._raw.tell() / self.size) if self.size else 1.0

    def close(self) -> None:
        self.stream.close()
        self._raw.close()


def skip_byte_order_mark(stream: io.BufferedReader) -> None:
    if stream.peek(len(BYTE_ORDER_MARK)).startswith(BYTE_ORDER_MARK):
        stream.read(len(BYTE_ORDER_MARK))


def bounded_lines(stream: BinaryIO, max_bytes: int = MAX_TEXT_BYTES) -> Iterator[bytes | None]:
    """The lines with their ends. None: a line of more than `max_bytes` bytes, which is not kept."""
    for line in iter(partial(stream.readline, max_bytes + 1), b""):
        if len(line) <= max_bytes or line.endswith(b"\n"):
            yield line
            continue
        for rest in iter(partial(stream.readline, BUFFER_BYTES), b""):
            if rest.endswith(b"\n"):
                break
        yield None


def first_lines(lines: Iterator[bytes | None], n_lines: int, max_bytes: int = 4 << 20) -> Iterator[bytes | None]:
    """At most `n_lines`, and none after the one that reaches `max_bytes` in sum."""
    n_bytes = 0
    for line in islice(lines, n_lines):
        yield line
        n_bytes += len(line or b"")
        if n_bytes >= max_bytes:
            return


@contextmanager
def failures(place: str | Callable[[], str]) -> Iterator[None]:
    """Failures of reading become an `EmbedError` that names the place."""
    try:
        yield
    except (OSError, EOFError, pa.ArrowException) as error:
        where = place if isinstance(place, str) else place()
        raise EngineFailure(f"{where} cannot be read: {reason_of(error)}") from error


def reason_of(error: BaseException) -> str:
    """One line in words."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = str(error).strip().splitlines()
    return lines[0].strip() if lines else type(error).__name__
