"""One writer at a time: a file that a process holds until it closes it or ends."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from gguf_embed.errors import ConfigError

BYTE = 1 << 30  # which byte Windows locks: what is locked cannot be read there, and the process id must be


class WriterLock:
    """Held from its creation to `release`."""

    def __init__(self, path: Path, name: str, *, waits: bool = False) -> None:
        """Raises `ConfigError` that names the process that writes to `name`, unless this one `waits` for its end.

        Raises `OSError` if the file cannot be opened or written.
        """
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            try:
                self._lock(waits)
            except OSError as error:
                writes = f"{self._holder()} is writing to {name}"
                raise ConfigError(f"{writes}: wait until it has ended, or stop it") from error
            os.ftruncate(self._file, 0)
            os.write(self._file, f"{os.getpid()}\n".encode())
        except BaseException:
            os.close(self._file)
            raise

    def _holder(self) -> str:
        """In words."""
        found = os.pread(self._file, 20, 0) if sys.platform != "win32" else os.read(self._file, 20)
        return f"process {found.decode(errors='replace').strip()}" if found.strip() else "another process"

    def _lock(self, waits: bool) -> None:
        if sys.platform == "win32":
            import msvcrt

            os.lseek(self._file, BYTE, os.SEEK_SET)
            try:
                msvcrt.locking(self._file, msvcrt.LK_LOCK if waits else msvcrt.LK_NBLCK, 1)
            finally:
                os.lseek(self._file, 0, os.SEEK_SET)
        else:
            import fcntl

            fcntl.flock(self._file, fcntl.LOCK_EX if waits else fcntl.LOCK_EX | fcntl.LOCK_NB)

    def release(self) -> None:
        os.close(self._file)
