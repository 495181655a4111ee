"""Finished lines on the disk: files that are only appended to, and can be continued after a crash."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from gguf_embed.batch.lines import LineReply, LineRequest, Written, left_line, output_line, read_written

Taken = Callable[[int], AbstractContextManager[object]]
"""Takes room for so many bytes, and gives it back if the block raises."""


class LineLog:
    """Lines of one batch in one file. Methods block.

    A line that is written survives the end of this process; `sync` makes it survive that of the machine.
    """

    def __init__(self, path: Path, key: str, note: Callable[[Written], None]) -> None:
        """Opens or creates the file, and calls `note` for each line in it. Cuts off what follows the last whole one."""
        self.path = path
        self.n_bytes = 0
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        self._is_synced = False  # what an earlier process wrote may be in memory only
        with path.open("rb") as stream:
            while (raw := stream.readline()) and (found := read_written(raw, key)) is not None:
                note(found)
                self.n_bytes += len(raw)
        os.ftruncate(self._handle, self.n_bytes)

    def append(self, lines: bytes) -> None:
        """Complete lines. Raises `OSError` with the file's path, and has then written none of them."""
        left = memoryview(lines)
        with self._named():
            try:
                while left:
                    left = left[os.write(self._handle, left) :]
            except OSError:
                os.ftruncate(self._handle, self.n_bytes)
                raise
        self.n_bytes += len(lines)
        self._is_synced = False

    def sync(self) -> None:
        """Raises `OSError` with the file's path; the next call then tries again."""
        if not self._is_synced:
            with self._named():
                os.fsync(self._handle)
            self._is_synced = True

    @contextmanager
    def _named(self) -> Iterator[None]:
        """A descriptor's errors do not say which file it is."""
        try:
            yield
        except OSError as error:
            error.filename = str(self.path)
            raise

    def close(self) -> None:
        """The file stays."""
        os.close(self._handle)


class Results:
    """The finished lines of one batch: what succeeded in one file, what failed in another, and how many there are.

    Methods that read or write files block, and belong to one thread at a time.
    """

    def __init__(self, output: Path, errors: Path, key: str) -> None:
        """Continues both files if they exist. `key`: 32 hexadecimal digits. Raises `OSError`."""
        self.key = key
        self.n_completed = self.n_failed = self.n_tokens = 0
        self.model: str | None = None  # of the first answer
        self._done = bytearray()  # one bit per line
        self.output = LineLog(output, key, self._note_completed)
        try:
            self.errors = LineLog(errors, key, self._note_failed)
        except BaseException:
            self.output.close()
            raise

    @property
    def n_bytes(self) -> int:
        return self.output.n_bytes + self.errors.n_bytes

    def has(self, number: int) -> bool:
        """Whether this line of the input is finished."""
        byte = number // 8
        return byte < len(self._done) and bool(self._done[byte] >> number % 8 & 1)

    def write(self, finished: Sequence[tuple[LineRequest, LineReply]], taken: Taken) -> None:
        """Append finished lines. Raises `OSError`, and what `taken` raises."""
        good = [(request, reply) for request, reply in finished if reply.is_ok]
        bad = [(request, reply) for request, reply in finished if not reply.is_ok]
        self.model = self.model or next((reply.model for _, reply in good), None)
        for log, part, note in ((self.output, good, self._note_completed), (self.errors, bad, self._note_failed)):
            lines = b"".join(output_line(self.key, request, reply) for request, reply in part)
            with taken(len(lines)):
                log.append(lines)
            for request, reply in part:
                note(Written(request.number, reply.n_tokens))

    def write_left(self, left: Sequence[LineRequest], code: str, message: str, taken: Taken) -> None:
        """Append lines that will not be computed to the errors. They do not count as failed."""
        lines = b"".join(left_line(self.key, request, code, message) for request in left)
        with taken(len(lines)):
            self.errors.append(lines)
        for request in left:
            self._mark(request.number)

    def _note_completed(self, line: Written) -> None:
        self._mark(line.number)
        self.n_completed += 1
        self.n_tokens += line.n_tokens

    def _note_failed(self, line: Written) -> None:
        self._mark(line.number)
        self.n_failed += 1

    def _mark(self, number: int) -> None:
        byte = number // 8
        if byte >= len(self._done):
            self._done.extend(bytes(byte + 1 - len(self._done)))
        self._done[byte] |= 1 << number % 8

    def sync(self) -> None:
        self.output.sync()
        self.errors.sync()

    def close(self) -> None:
        self.output.close()
        self.errors.close()
