"""Where `embed` writes: a file, or a stream, which is standard output, another descriptor, a pipe or a device."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from gguf_embed.cli.embed_formats import Format, RowWriter, writing
from gguf_embed.cli.standard_output import ReaderGone
from gguf_embed.errors import WayOut, cannot_be_written
from gguf_embed.gguf_file.atomic_write import atomic_write

_DESCRIPTOR: Final = re.compile(r"/dev/(stdout|stderr)|/(?:dev|proc/self)/fd/(\d{1,4})")
_STANDARD: Final = {"stdout": 1, "stderr": 2}


@contextmanager
def writing_file(format_: Format, path: Path, *, width: int) -> Iterator[RowWriter]:
    """A writer into a file, which appears when it is complete, in place of an earlier one; a link to it stays.

    An open descriptor such as /dev/stdout, a pipe or a device is written to as a stream. Raises `ModelFileError` if it
    cannot be written, and `ReaderGone` if the reader of a descriptor has gone, as that of standard output.
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

    `may_be_closed`: its reader may leave, as `head` does, which becomes `ReaderGone`.
    """
    try:
        yield
    except OSError as error:
        if error.filename not in (None, name):
            raise
        if isinstance(error, BrokenPipeError) and may_be_closed:
            raise ReaderGone from error
        raise cannot_be_written(name, error, [WayOut.OTHER_OUTPUT]) from error
