"""Who asks for work, and how urgent it is: what the scheduler shares the workers by."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import StrEnum


class Priority(StrEnum):
    """The class of a request, the most urgent first.

    Classes share the workers by weight (`scheduler/batching.py`), so that none starves.
    """

    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"
    BATCH = "batch"  # jobs that nobody waits for


@dataclass(frozen=True, slots=True)
class Caller:
    """The client whose share a request counts against, and the class of the request. These two tell callers apart."""

    client: str = ""  # the same for all requests of one API key, or without keys of one address
    priority: Priority = Priority.NORMAL
    highest: Priority = field(default=Priority.HIGH, compare=False)  # that its requests may ask for
    cache_scope: str | None = field(default="", compare=False)  # outputs that were kept are found within it only;
    # None: none are used, none kept


NOBODY = Caller()

CALLER: ContextVar[Caller] = ContextVar("caller", default=NOBODY)
"""Of the task that runs now. The middleware sets it for HTTP requests, a batch job for its own task."""
