"""What a standard output that is closed, that takes no more or that nobody reads means, for all commands."""

from __future__ import annotations

import codecs
import errno
import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from enum import Enum, auto
from typing import Any, TextIO

from gguf_embed.errors import ConfigError, EmbedError, WayOut, cannot_be_written

READER_GONE_CODE = 141  # as a shell reports SIGPIPE
_MAY_PASS = (errno.ENOSPC, errno.EDQUOT, errno.EIO)
_ESCAPED = "gguf_embed.escaped"


class Use(Enum):
    """What a command writes to standard output."""

    RESULT = auto()  # what it is for: without it, nothing is begun
    RESULT_OR_FILE = auto()  # the same, unless -o names a file
    REPORT = auto()  # what it does, which it does without it too


class ReaderGone(Exception):
    """The program that read the output has ended, as `head` does: no error, and nothing to say."""


class StandardOutput(io.RawIOBase):
    """The lowest layer of `sys.stdout`: it gives `OSError`s their meaning.

    If a result cannot be written, `write` raises `failure`, and nothing is written any more. A report is dropped
    instead, and the command does its work: `warn` says so once, and what follows is written if the reason has passed.
    `failure` stays None if whoever started the command has closed standard output.
    """

    def __init__(self, raw: io.RawIOBase | None) -> None:
        """`raw`: None if it is closed."""
        self._raw = raw
        self._is_over = False
        self._is_in_line = self._is_cut = False
        self.use = Use.RESULT
        self.warn: Callable[[EmbedError], None] = lambda failure: None
        self.failure: EmbedError | ReaderGone | None = None  # the first

    def check(self, *, has_file: bool) -> None:
        """Raises `ConfigError` if it is closed and needed. `has_file`: -o was given."""
        if self._raw is None and (self.use is Use.RESULT or (self.use is Use.RESULT_OR_FILE and not has_file)):
            raise self._closed()

    def write(self, data: Any, /) -> int | None:
        """The number of bytes; None if a stream that does not wait takes none now. `data`: bytes, or a view of them."""
        n_bytes = memoryview(data).nbytes
        if self._is_over:
            return n_bytes
        if self._raw is not None:
            try:
                return self._written(self._raw, data)
            except OSError as error:
                self._is_cut = self._is_in_line
                self._fail(self._meaning(error), may_pass=error.errno in _MAY_PASS)
        elif self.use is not Use.REPORT:
            self._fail(self._closed(), may_pass=False)
        return n_bytes

    def _written(self, raw: io.RawIOBase, data: Any) -> int | None:
        """Ends a line of which a part is written and the rest was dropped, before what follows."""
        if self._is_cut:
            raw.write(b"\n")
        self._is_cut = False
        n_bytes = raw.write(data)
        if n_bytes:
            self._is_in_line = bytes(memoryview(data)[n_bytes - 1 : n_bytes]) != b"\n"
        return n_bytes

    def _fail(self, failure: EmbedError | ReaderGone, *, may_pass: bool) -> None:
        is_first, self.failure = self.failure is None, self.failure or failure
        self._is_over = self.use is not Use.REPORT or not may_pass
        if self.use is not Use.REPORT:
            raise failure
        if is_first and isinstance(failure, EmbedError):
            with suppress(OSError):  # standard error may be on the same disk
                self.warn(failure)

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
def standard_output(warn: Callable[[EmbedError], None]) -> Iterator[StandardOutput | None]:
    """Puts a `StandardOutput` below `sys.stdout`; None, and nothing, if that is not the process's own, as in tests.

    A result that could not be written ends with its `failure`, unless the block fails, or exits with an error when only
    the reader has gone. A report of which something is missing, which `warn` has said, ends with `SystemExit`; one
    whose reader has gone, as if all was read.
    """
    before: Any = sys.stdout
    if before is not sys.__stdout__:
        yield None
        return
    output, stream = _layers(before)
    output.warn = warn
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
    end = _end(output, exit_)
    if end is not None:
        raise end


def _end(output: StandardOutput, exit_: SystemExit | None) -> BaseException | None:
    """What the command ends with: an error of its output, or `exit_`, its own."""
    failure, has_failed = output.failure, exit_ is not None and bool(exit_.code)
    if isinstance(failure, ReaderGone):
        return exit_ if has_failed or output.use is Use.REPORT else failure
    if failure is not None and output.use is Use.REPORT:
        return exit_ if has_failed else SystemExit(1)
    return failure or exit_


class _Unbuffered(io.BufferedWriter):
    """That of `python -u`: all that is written arrives at once. A raw stream may take only a part of it."""

    def write(self, data: Any, /) -> int:
        n_bytes = super().write(data)
        self.flush()
        return n_bytes


def _layers(before: Any) -> tuple[StandardOutput, TextIO]:
    """The lowest and the highest one of a stream that writes to the same place. `before`: None if it is closed."""
    codecs.register_error(_ESCAPED, _escaped)
    if before is None:
        output = StandardOutput(None)
        return output, io.TextIOWrapper(io.BufferedWriter(output), "utf-8")
    before.flush()
    is_buffered = hasattr(before.buffer, "raw")
    output = StandardOutput(before.buffer.raw if is_buffered else before.buffer)
    buffer = io.BufferedWriter(output) if is_buffered else _Unbuffered(output)
    errors = _ESCAPED if before.errors == "strict" else before.errors
    lines = {"line_buffering": before.line_buffering, "write_through": before.write_through}
    return output, io.TextIOWrapper(buffer, before.encoding, errors, **lines)


def _escaped(error: UnicodeError) -> tuple[str, int]:
    """Characters that an encoding lacks, as JSON writes them, which people understand too."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    units = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[i : i + 4]}" for i in range(0, len(units), 4)), error.end


def keep_standard_descriptors() -> None:
    """Opens those that are closed, so that no other file gets their numbers: what C libraries print would be written
    into it, here and in child processes. What is written to standard output still fails; what is written to standard
    error is dropped."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_WRONLY if number == 2 else os.O_RDONLY), True)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
