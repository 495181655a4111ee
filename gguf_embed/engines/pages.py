"""Memory that nobody will read, given back to the system while it stays allocated."""

from __future__ import annotations

import ctypes
import mmap
import sys


def give_back(address: int, size_bytes: int) -> None:
    """Tell Linux that the whole pages inside this private memory may go; read again, they are zeros.

    Does nothing on other systems, and nothing for less than one whole page.
    """
    if not sys.platform.startswith("linux"):
        return
    page = mmap.PAGESIZE
    first, end = -(-address // page) * page, (address + size_bytes) // page * page
    if end > first:
        ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(end - first), mmap.MADV_DONTNEED)
