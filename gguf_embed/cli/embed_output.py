"""Where `embed` writes: a file, or a stream, which is standard output, another descriptor, a pipe or a device."""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from gguf_embed.cli.embed_formats import Format, RowWriter, writing
from gguf_embed.cli.terminal import discard_output
from gguf_embed.errors import ModelFileError, WayOut
from gguf_embed.gguf_file.atomic_write import atomic_write

_DESCRIPTOR: Final = re.compile(r"/dev/(stdout|stderr)|/(?:dev|proc/self)/fd/(\d{1,4})")
_STANDARD: Final = {"stdout": 1, "stderr": 2}


@contextmanager
def writing_file(format_: Format, path: Path, *, width: int) -> Iterator[RowWriter]:
    """A writer into a file, which appears when it is complete, in place of an earlier one; a link to it stays.

    An open descriptor such as /dev/stdout, a pipe or a device is written to as a stream. Raises `ModelFileError` if it
    cannot be written, and `BrokenPipeError` if the reader of a descriptor has gone, as that of standard output.
    """
    descriptor = _descriptor(path)
    if descriptor is not None or (path.exists() and not path.is_file() and not path.is_dir()):
        with (
            _errors_of(str(path), may_be_closed=descriptor is not None),
            _opened(path, descriptor) as stream,
            writing(format_, stream, width=width, is_file=False) as writer,
        ):
            yield writer
        return
    with (
        atomic_write(Path(os.path.realpath(path)), make_folder=False) as temporary,
        temporary.open("w+b") as stream,
        writing(format_, stream, width=width, is_file=True) as writer,
    ):
        yield writer


@contextmanager
def writing_stdout(format_: Format, *, width: int) -> Iterator[RowWriter]:
    """The same into standard output, as a stream."""
    with _errors_of("standard output", may_be_closed=True):
        try:
            with writing(format_, sys.stdout.buffer, width=width, is_file=False) as writer:
                yield writer
        except OSError:
            discard_output()
            raise


def _descriptor(path: Path) -> int | None:
    """The number of the open file that the path stands for. Its own path, if it has one, may have to keep its rows."""
    match = _DESCRIPTOR.fullmatch(str(path))
    if match is None:
        return None
    return _STANDARD[match[1]] if match[1] else int(match[2])


def _opened(path: Path, descriptor: int | None) -> BinaryIO:
    """What is written follows what the descriptor's file contains, if that was opened so."""
    return path.open("wb") if descriptor is None else os.fdopen(os.dup(descriptor), "wb")


@contextmanager
def _errors_of(name: str, *, may_be_closed: bool) -> Iterator[None]:
    """Turns a stream's `OSError`s into errors that name it; not those of other files.

    `may_be_closed`: its reader may leave, as `head` does, which stays a `BrokenPipeError`.
    """
    try:
        yield
    except OSError as error:
        if error.filename not in (None, name) or (isinstance(error, BrokenPipeError) and may_be_closed):
            raise
        free = [WayOut.FREE_SPACE] if error.errno == errno.ENOSPC else []
        message = f"{name} cannot be written ({error.strerror or error})"
        raise ModelFileError(message, [*free, WayOut.OTHER_OUTPUT]) from error
