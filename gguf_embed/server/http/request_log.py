"""The log of requests: with -v a line for each; without, a line for those that are refused, a few per minute.

No line has a text or a key: a client's strings are left out of the reasons.
"""

from __future__ import annotations

import asyncio
import logging
import re
import unicodedata
from collections import Counter
from contextvars import ContextVar
from dataclasses import dataclass, field

logger = logging.getLogger("gguf_embed.requests")

PROBES = frozenset({"/health", "/v1/health", "/ready", "/metrics"})
"""Routes that are asked all the time; their requests are logged with -vv only."""

WINDOW_S = 60.0
LINES_PER_WINDOW = 20
SAME_PER_WINDOW = 3
"""Lines of one route and status. A flood of refused requests therefore writes a few kB per minute."""

MAX_REASON = 300  # characters
MAX_PATH = 100  # characters
UNKNOWN_ROUTE = "unknown"
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_MOST = 5  # kinds in a summary
_CLIENTS_STRING = re.compile(r'the string ".*"', re.DOTALL)  # as http/values.py describes it; may contain quotes


@dataclass(slots=True)
class RequestWork:
    """What one request did, for its line."""

    model: str = ""
    n_texts: int = 0
    n_tokens: int = 0
    reason: str = ""  # why it was refused
    request_id: str = ""

    def add(self, model: str, n_texts: int, n_tokens: int) -> None:
        self.model = model
        self.n_texts += n_texts
        self.n_tokens += n_tokens


WORK: ContextVar[RequestWork | None] = ContextVar("work", default=None)
"""Of the request that this task answers; None if nobody reads it."""


@dataclass(frozen=True, slots=True)
class Answered:
    """A request and its answer. Two are of one kind if all but their paths are equal, so there are not many kinds."""

    method: str  # or "?"
    route: str  # a path of the route table, or "unknown"
    status: int
    path: str = field(default="", compare=False)  # the client's own, of an unknown route

    @classmethod
    def of(cls, method: str, route: str | None, status: int, path: str) -> Answered:
        """`path` is without the query string, which may have a key."""
        known = method if method in _METHODS else "?"
        return cls(known, route, status) if route else cls(known, UNKNOWN_ROUTE, status, _one_line(path, MAX_PATH))

    def __str__(self) -> str:
        return f"{self.method} {self.path or self.route} {self.status}"

    @property
    def kind(self) -> str:
        """What it has in common with others of its kind."""
        return f"{self.method} {f'{UNKNOWN_ROUTE} paths' if self.path else self.route} {self.status}"

    def fields(self) -> dict[str, object]:
        path = {"path": self.path} if self.path else {}
        return {"method": self.method, "route": self.route, "status": self.status, **path}


@dataclass(slots=True)
class Refusals:
    """Decides which refused requests get a line of their own in this window, and counts the others. Pure."""

    began_s: float = -WINDOW_S
    n_lines: int = 0
    said: Counter[Answered] = field(default_factory=Counter)
    unsaid: Counter[Answered] = field(default_factory=Counter)

    def has_line(self, answered: Answered, now_s: float) -> bool:
        """Whether it gets one. After the first that does not, `summary` is due at the end of the window."""
        if now_s >= self.began_s + WINDOW_S:
            self.began_s, self.n_lines = now_s, 0
            self.said.clear()
        if self.n_lines >= LINES_PER_WINDOW or self.said[answered] >= SAME_PER_WINDOW:
            self.unsaid[answered] += 1
            return False
        self.said[answered] += 1
        self.n_lines += 1
        return True

    def summary(self) -> str:
        """What was counted since the last summary."""
        most = self.unsaid.most_common(_MOST)
        n_others = self.unsaid.total() - sum(n for _, n in most)
        kinds = [f"{n:,} times {one.kind}" for one, n in most]
        more = [f"{n_others:,} others"] if n_others else []
        text = f"refused, and not shown one by one: {', '.join(kinds + more)}"
        self.unsaid.clear()
        return text


class RequestLog:
    """Writes the lines. Belongs to the event loop."""

    def __init__(self) -> None:
        self._refusals = Refusals()
        self._summary: asyncio.TimerHandle | None = None

    def refused(self, answered: Answered, message: str) -> None:
        """A request was refused. With -v the reason is a part of its line."""
        work = WORK.get()
        if work is not None:
            work.reason = reason_of(message)
            return
        loop = asyncio.get_running_loop()
        if self._refusals.has_line(answered, loop.time()):
            reason = reason_of(message)
            logger.warning("%s: %s", answered, reason, extra={"fields": answered.fields() | {"reason": reason}})
        elif self._summary is None:
            logger.warning(
                "%s again: until the minute is over, more of these are only counted; -v shows each", answered.kind
            )
            self._summary = loop.call_at(self._refusals.began_s + WINDOW_S, self._sum_up)

    def _sum_up(self) -> None:
        self._summary = None
        logger.warning(self._refusals.summary())

    def answered(self, answered: Answered, duration_s: float, work: RequestWork) -> None:
        """A line for a request that was answered, or whose client has left."""
        level = logging.DEBUG if answered.route in PROBES else logging.INFO
        if not logger.isEnabledFor(level):
            return
        fields: dict[str, object] = answered.fields() | {"ms": round(duration_s * 1e3, 1)}
        parts = [f"{answered} {duration_s * 1e3:.1f} ms"]
        if work.model:
            fields |= {"model": work.model, "texts": work.n_texts, "tokens": work.n_tokens}
            texts = "1 text" if work.n_texts == 1 else f"{work.n_texts} texts"
            parts.append(f"{work.model}, {texts}, {work.n_tokens} tokens")
        if work.reason:
            fields["reason"] = work.reason
            parts.append(work.reason)
        logger.log(level, ": ".join(parts), extra={"fields": fields, "request_id": work.request_id})


def reason_of(message: str) -> str:
    """An error's message as one short line, without a client's strings: they may be texts."""
    return _one_line(_CLIENTS_STRING.sub("a string", message), MAX_REASON)


def _one_line(text: str, longest: int) -> str:
    shown = text[:longest]
    line = "".join("?" if unicodedata.category(char)[0] in "CZ" and char != " " else char for char in shown)
    return f"{line}…" if len(text) > longest else line
