"""A file that is still being downloaded: counted while it is written, and checked before it is used."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from gguf_embed.errors import ModelFileError

_SHA256 = re.compile(r"[0-9a-f]{64}")
_GIT_SHA1 = re.compile(r"[0-9a-f]{40}")
_UNITS = ("B", "kB", "MB", "GB", "TB")


class Stopped(BaseException):
    """The progress callback raised an error, our `__cause__`: the download must stop, not retry."""


class CountedFile:
    """A file that reports its size after every write, once the bytes are flushed to the system."""

    def __init__(self, file: BinaryIO, report_size: Callable[[int], None]) -> None:
        self._file = file
        self._report_size = report_size

    def write(self, data: bytes) -> int:
        n_written = self._file.write(data)
        self._file.flush()
        self.announce()
        return n_written

    def announce(self) -> None:
        """Report the size now. Raises `Stopped` if the callback raises."""
        try:
            self._report_size(self._file.tell())
        except Exception as exc:
            raise Stopped from exc

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def truncate(self, size: int | None = None) -> int:
        return self._file.truncate(size)


def check_room(folder: Path, needed: int, what: str) -> None:
    """Raise `ModelFileError` if the disk of `folder` has less than `needed` bytes free."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ModelFileError(
            f"{what} needs {human_size(needed)} more, but the disk of {folder} has only {human_size(free)} free; "
            "free some space or set HF_HUB_CACHE to a folder on another disk"
        )


def check_content(path: Path, etag: str, size_bytes: int | None, what: str) -> None:
    """Compare a finished file with its size and the hub's etag; delete it and raise `ModelFileError` if they differ.

    The etag of a large file is its sha256, that of a small one its git sha1; any other is not checked.
    """
    found_size = path.stat().st_size
    if size_bytes is not None and found_size != size_bytes:
        path.unlink(missing_ok=True)
        raise ModelFileError(
            f"{what} arrived with {found_size:,} bytes, the hub declares {size_bytes:,}; download again"
        )
    found = hash_for(path, etag)
    if found is not None and found != etag:
        path.unlink(missing_ok=True)
        raise ModelFileError(f"{what} arrived damaged: its hash is {found}, the hub declares {etag}; download again")


def hash_for(path: Path, etag: str) -> str | None:
    """The file's hash of the same kind as `etag`; None for an unknown kind."""
    if _SHA256.fullmatch(etag):
        return sha256_of(path)
    if _GIT_SHA1.fullmatch(etag):
        header = f"blob {path.stat().st_size}\0".encode()
        return hashlib.sha1(header + path.read_bytes(), usedforsecurity=False).hexdigest()
    return None


def is_sha256(text: str) -> bool:
    return _SHA256.fullmatch(text) is not None


def sha256_of(path: Path) -> str:
    """The file's sha256, in about a second per gigabyte."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def human_size(n_bytes: float) -> str:
    """ "24.1 MB": powers of 1000, as disks and the hub count."""
    for unit in _UNITS[:-1]:
        if n_bytes < 999.5:
            return f"{n_bytes:.0f} {unit}" if unit in ("B", "kB") or n_bytes >= 99.95 else f"{n_bytes:.1f} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.1f} {_UNITS[-1]}"
