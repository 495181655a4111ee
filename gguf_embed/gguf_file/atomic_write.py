"""A file that appears complete or not at all."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gguf_embed.errors import ModelFileError


@contextmanager
def whole_or_nothing(output: Path) -> Iterator[Path]:
    """Yield a temporary path beside `output`; move it there, synced to disk, when the block ends well.

    The temporary file is removed on any exception. Raises `ModelFileError` when the place cannot be written.
    """
    temporary = output.with_name(f".{output.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            _sync(temporary, os.O_RDWR)
            os.replace(temporary, output)
        finally:
            temporary.unlink(missing_ok=True)
        if os.name != "nt":  # Windows has no handle on a folder to sync
            _sync(output.parent, os.O_RDONLY)
    except OSError as exc:
        hint = "free some space" if exc.errno == errno.ENOSPC else "check the folder"
        raise ModelFileError(f"{output}: cannot be written: {exc.strerror or exc}; {hint}") from exc


def _sync(path: Path, mode: int) -> None:
    handle = os.open(path, mode)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
