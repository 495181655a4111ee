"""Ends long work on a thread early when nobody waits for its result any more."""

from __future__ import annotations

import threading


class Abandoned(Exception):
    """Nobody waits for this work any more."""


class _CurrentWork(threading.local):
    is_abandoned: threading.Event | None = None


_current = _CurrentWork()


def begin_work(is_abandoned: threading.Event | None) -> None:
    """What this thread does from now on is abandoned once the event is set; None: never."""
    _current.is_abandoned = is_abandoned


def check_abandoned() -> None:
    """Called between the texts of a request. Raises `Abandoned`."""
    if _current.is_abandoned is not None and _current.is_abandoned.is_set():
        raise Abandoned
