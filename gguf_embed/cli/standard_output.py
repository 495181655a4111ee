"""What a standard output that is closed, that takes no more or that nobody reads means, for all commands."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import Enum, auto
from typing import Any, TextIO

from gguf_embed.errors import ConfigError, EmbedError, WayOut, cannot_be_written

READER_GONE_CODE = 141  # as a shell reports SIGPIPE


class Use(Enum):
    """What a command writes to standard output."""

    RESULT = auto()  # what it is for: without it, nothing is begun
    RESULT_OR_FILE = auto()  # the same, unless -o names a file
    REPORT = auto()  # what it does, which it does without it too


class ReaderGone(Exception):
    """The program that read the output has ended, as `head` does: no error, and nothing to say."""


class StandardOutput(io.RawIOBase):
    """The lowest layer of `sys.stdout`: it gives `OSError`s their meaning. After one, nothing is written any more.

    If a result cannot be written, `write` raises `failure`. A report is dropped instead: the command does its work,
    and ends with `failure`, which stays None if whoever started the command has closed standard output.
    """

    def __init__(self, raw: io.RawIOBase | None) -> None:
        """`raw`: None if it is closed."""
        self._raw = raw
        self.use = Use.RESULT
        self.failure: EmbedError | ReaderGone | None = None

    def check(self, *, has_file: bool) -> None:
        """Raises `ConfigError` if it is closed and needed. `has_file`: -o was given."""
        if self._raw is None and (self.use is Use.RESULT or (self.use is Use.RESULT_OR_FILE and not has_file)):
            raise self._closed()

    def write(self, data: Any, /) -> int | None:
        """The number of bytes; None if a stream that does not wait takes none now. `data`: bytes, or a view of them."""
        n_bytes = memoryview(data).nbytes
        if self.failure is not None:
            return n_bytes
        if self._raw is not None:
            try:
                return self._raw.write(data)
            except OSError as error:
                self.failure = self._meaning(error)
        elif self.use is not Use.REPORT:
            self.failure = self._closed()
        if self.failure is not None and self.use is not Use.REPORT:
            raise self.failure
        return n_bytes

    def _meaning(self, error: OSError) -> EmbedError | ReaderGone:
        if isinstance(error, BrokenPipeError):
            return ReaderGone()
        other = WayOut.OTHER_OUTPUT if self.use is Use.RESULT_OR_FILE else WayOut.REDIRECT
        return cannot_be_written("standard output", error, [other])

    def _closed(self) -> ConfigError:
        way_out = "name a file with -o" if self.use is Use.RESULT_OR_FILE else "redirect it to a file or a pipe"
        return ConfigError(f"standard output is closed: {way_out}")

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return super().fileno() if self._raw is None else self._raw.fileno()

    def isatty(self) -> bool:
        return self._raw is not None and self._raw.isatty()


@contextmanager
def standard_output() -> Iterator[StandardOutput | None]:
    """Puts a `StandardOutput` below `sys.stdout`; None, and nothing, if that is not the process's own, as in tests.

    Ends with its `failure`, unless the block fails, or exits with an error when only the reader has gone.
    """
    before: Any = sys.stdout
    if before is not sys.__stdout__:
        yield None
        return
    output, stream = _layers(before)
    exit_: SystemExit | None = None
    sys.stdout = stream
    try:
        yield output
    except SystemExit as error:
        exit_ = error
    finally:
        with suppress(EmbedError, ReaderGone):  # `failure`
            stream.flush()
        sys.stdout = before
    if output.failure is not None and not (isinstance(output.failure, ReaderGone) and exit_ and exit_.code):
        raise output.failure
    if exit_ is not None:
        raise exit_


def _layers(before: Any) -> tuple[StandardOutput, TextIO]:
    """The lowest and the highest one of a stream that writes to the same place. `before`: None if it is closed."""
    if before is None:
        output = StandardOutput(None)
        return output, io.TextIOWrapper(io.BufferedWriter(output), "utf-8")
    before.flush()
    output = StandardOutput(getattr(before.buffer, "raw", before.buffer))
    lines = {"line_buffering": before.line_buffering, "write_through": before.write_through}
    return output, io.TextIOWrapper(io.BufferedWriter(output), before.encoding, before.errors, **lines)


def keep_standard_descriptors() -> None:
    """Opens those that are closed, so that no other file gets their numbers: what C libraries print would be written
    into it. What is written to standard output still fails, and what is written to standard error is dropped."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDONLY)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
