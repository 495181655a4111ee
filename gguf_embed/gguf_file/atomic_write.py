"""Writes a file so that it appears complete or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from gguf_embed.errors import WayOut, cannot_be_written
from gguf_embed.gguf_file.unfinished import unfinished


@contextmanager
def atomic_write(
    output: Path, *, ways_out: Sequence[WayOut] = (WayOut.OTHER_FOLDER,), make_folder: bool = True
) -> Iterator[Path]:
    """Yield a temporary path in the folder of `output`; move it there, synced to disk, if the block succeeds.

    Safe for several threads and processes writing the same file: each has its own temporary path, the last move wins.
    The temporary file is removed on any exception. An `OSError`, also one of the block, becomes a `ModelFileError`
    that names `output` and has these `ways_out`.
    """
    temporary = output.with_name(f".{output.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        if make_folder:
            output.parent.mkdir(parents=True, exist_ok=True)
        try:
            with unfinished(temporary):
                yield temporary
                _sync(temporary, os.O_RDWR)
                os.replace(temporary, output)
        finally:
            with suppress(OSError):  # the folder may not exist, or not be a folder
                temporary.unlink(missing_ok=True)
        if os.name != "nt":  # Windows cannot open a folder to sync it
            _sync(output.parent, os.O_RDONLY)
    except OSError as exc:
        raise cannot_be_written(str(output), exc, ways_out) from exc


def _sync(path: Path, mode: int) -> None:
    handle = os.open(path, mode)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
