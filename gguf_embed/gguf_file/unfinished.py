"""Files that are being written now: whoever ends the process at once removes them first."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_unfinished: set[Path] = set()


@contextmanager
def unfinished(path: Path) -> Iterator[None]:
    """A file or folder is there for as long as the block runs, which removes it itself if it ends in any way."""
    _unfinished.add(path)
    try:
        yield
    finally:
        _unfinished.discard(path)


def remove_unfinished() -> None:
    """For the end of the process, on any thread, also in a signal handler: takes no lock."""
    for path in tuple(_unfinished):
        with suppress(OSError):
            os.unlink(path)
        shutil.rmtree(path, ignore_errors=True)
