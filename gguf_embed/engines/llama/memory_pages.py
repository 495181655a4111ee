"""This process's memory: which library files are loaded, and how to release pages to the system."""

from __future__ import annotations

import ctypes
import mmap
import sys
from pathlib import Path


def release_pages(address: int, size_bytes: int) -> None:
    """Release the whole pages inside this private memory to Linux. When read again, they are zeros.

    Does nothing on other systems, or for less than one whole page.
    """
    if not sys.platform.startswith("linux"):
        return
    page = mmap.PAGESIZE
    first, end = -(-address // page) * page, (address + size_bytes) // page * page
    if end > first:
        ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(end - first), mmap.MADV_DONTNEED)


def loaded_file(folder: Path, stem: str) -> Path | None:
    """The file in `folder` named `stem`.so… that this process has loaded; None if the system does not tell."""
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return None
    paths = (Path(line.split(maxsplit=5)[5]) for line in lines if line.count("/"))
    folder = folder.resolve()
    return next((path for path in paths if path.name.startswith(f"{stem}.so") and path.parent == folder), None)
