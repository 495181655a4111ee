"""Reports why an engine does not run a file: a reason once, whichever file, model or child process it is about."""

from __future__ import annotations

from collections.abc import Callable

_said: set[str] = set()  # reasons that were reported by this process, also for its children
_tell_parent: Callable[[str, str], None] | None = None  # None: this process reports to the operator itself


def report_once(report: Callable[[str], None], line: str, reason: str = "") -> None:
    """Report a line for the operator, unless one has given the same reason before. "": it gives none."""
    if reason and _tell_parent is not None:
        _tell_parent(reason, line)
    elif reason not in _said:
        if reason:
            _said.add(reason)
        report(line)


def leave_reasons_to_parent(tell: Callable[[str, str], None]) -> None:
    """In a child process: `tell` gets each reason and the line that gives it, and neither is reported here.

    The parent calls `report_once`, because it alone knows what its other children have said.
    """
    global _tell_parent
    _tell_parent = tell
