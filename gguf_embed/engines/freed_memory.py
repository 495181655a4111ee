"""Memory that a model has freed, or does not need now, goes back to the system."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from contextlib import suppress

from gguf_embed.engines.base import KeepsBuffers


def release_buffers(owners: Iterable[object]) -> int:
    """`free_buffers`, and what is freed goes back to the system."""
    n_keeping = free_buffers(owners)
    give_back_memory()
    return n_keeping


def free_buffers(owners: Iterable[object]) -> int:
    """Free what those that are `KeepsBuffers` need only while they run a batch. On the thread that they belong to.

    Returns how many they are.
    """
    keeping = [owner for owner in owners if isinstance(owner, KeepsBuffers)]
    for owner in keeping:
        owner.release_buffers()
    return len(keeping)


def give_back_memory() -> None:
    """Ask glibc for what it keeps for later; elsewhere nothing. Any thread; takes some milliseconds.

    In a soak of two minutes, in which a second model was loaded and unloaded, memory grew by 7 % instead of 13.
    """
    with suppress(OSError, AttributeError, TypeError):  # TypeError: on Windows
        ctypes.CDLL(None).malloc_trim(0)
