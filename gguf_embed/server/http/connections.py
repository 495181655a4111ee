"""How many connections there may be, which one ends when there are too many, and which replies were not read."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Protocol

try:
    import resource
except ImportError:  # not on Windows
    resource = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

HEADER_TIMEOUT_S = 60.0
"""How long the headers of a request may take: from a new connection on, and later from their first byte on."""

IDLE_TIMEOUT_S = 620.0
"""How long a connection may wait for its next request. Load balancers keep theirs for up to 600 s, and should be the
ones that close them."""

READ_TIMEOUT_S = 60.0
"""How long a client may read nothing of a reply that does not fit into the system's buffers."""

MAX_DESCRIPTORS = 65_536
RESERVED_PART, MIN_RESERVED = 8, 32
"""An eighth of the descriptors, and no fewer than 32, are not for connections but for files."""

_LOG_EVERY_S = 60.0
_POLL_S = 0.05


class Connection(Protocol):
    """What this module must know about a connection."""

    @property
    def waits_since_s(self) -> float | None:
        """When it began to wait for a request, on the loop's clock; None while it has one."""
        ...

    @property
    def n_unsent_bytes(self) -> int:
        """How much of its replies has not been taken by the system, because the client does not read."""
        ...


def longest_waiting(connections: Iterable[Connection], new: Connection) -> Connection | None:
    """The one to close in favor of a new one: that which waits for a request longest. None if none waits."""
    waiting = [(since, one) for one in connections if one is not new and (since := one.waits_since_s) is not None]
    return min(waiting, key=lambda pair: pair[0])[1] if waiting else None


def connection_limit() -> int | None:
    """How many connections there may be: for what the descriptors suffice. None where the system does not tell.

    Raises the soft limit to the hard one, as far as that is useful.
    """
    if resource is None:
        return None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MAX_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MAX_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < most:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
            soft = most
    n_descriptors = MAX_DESCRIPTORS if soft == resource.RLIM_INFINITY else soft
    try:
        n_open = len(os.listdir("/dev/fd"))
    except OSError:
        n_open = 0
    return max(1, n_descriptors - n_open - max(MIN_RESERVED, n_descriptors // RESERVED_PART))


class ShortageLog:
    """Says that connections are short, but not for each of a flood of them."""

    def __init__(self) -> None:
        self._logged_s: float | None = None
        self._n_since = 0

    def note(self, limit: int) -> None:
        """One connection was closed because there are `limit` others."""
        self._n_since += 1
        now_s = time.monotonic()
        if self._logged_s is not None and now_s - self._logged_s < _LOG_EVERY_S:
            return
        logger.warning(
            "%d connections, the limit with this process's descriptors: closed %d, those that waited longest for a "
            "request first; for more, raise ulimit -n",
            limit,
            self._n_since,
        )
        self._logged_s, self._n_since = now_s, 0


async def count_unread(connections: Iterable[Connection], timeout_s: float) -> int:
    """Wait until all clients have taken their replies, and return how many have not after `timeout_s`."""
    loop = asyncio.get_running_loop()
    end_s = loop.time() + timeout_s
    unread = [one for one in connections if one.n_unsent_bytes]
    while unread and loop.time() < end_s:
        await asyncio.sleep(_POLL_S)
        unread = [one for one in unread if one.n_unsent_bytes]
    return len(unread)
