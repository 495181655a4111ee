"""What can go wrong with one request to a server: worth another try, or not."""

from __future__ import annotations

import email.utils
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import orjson

from gguf_embed.errors import (
    AuthenticationFailed,
    EmbedError,
    InvalidRequest,
    ModelNotFound,
    NotSupported,
    PermissionDenied,
    Unavailable,
)

_MAX_SHOWN = 300
_REFUSED = (400, 413, 422)
_BUSY = (429, 503)
_TEMPORARY = (408, 409, 424, 425)
_NOT_ABOUT_THE_TEXTS = ("model_load_failed", "pull_failed")


class Trouble(StrEnum):
    """Why a request may succeed later."""

    UNREACHABLE = "unreachable"  # no connection
    BUSY = "busy"  # the server asks to wait
    FAILED = "failed"  # it failed, took too long or sent a broken reply; perhaps because of the texts


class Temporary(Unavailable):
    """This request failed, and may succeed later. `retry_after_s`: when the server wants it; None: it does not say."""

    def __init__(self, message: str, trouble: Trouble, retry_after_s: float | None = None) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.trouble = trouble


class Refused(InvalidRequest):
    """The server refuses the texts: one of them is too long or wrong, or they are too many."""


class RefusedByEngine(EmbedError):
    """The server's engine fails on one of the texts, and would again."""

    kind = "engine"


class NoSuchRoute(ModelNotFound):
    """404 or 405: the server has no such route, or no such model."""


@dataclass(frozen=True, slots=True)
class ErrorReply:
    """What a server sent in place of a result. `server` is its address, for messages."""

    server: str
    status: int
    headers: Mapping[str, str]
    body: bytes

    def error(self) -> EmbedError:
        """The error to raise."""
        said = f"{self.server}: {self.words()} (HTTP {self.status})"
        if self.status in (404, 405):
            return NoSuchRoute(said)
        if self.status in _REFUSED:
            return Refused(said)
        known = {401: AuthenticationFailed, 403: PermissionDenied, 501: NotSupported}
        if self.status in known:
            return known[self.status](said)
        if self.status >= 500 and self._is_final():
            return RefusedByEngine(said)
        if self.status in _BUSY:
            return Temporary(said, Trouble.BUSY, retry_after_s(self.headers))
        if self.status >= 500 or self.status in _TEMPORARY:
            return Temporary(said, Trouble.FAILED, retry_after_s(self.headers))
        if 300 <= self.status < 400:
            return InvalidRequest(f"{self.server} redirects to {self.headers.get('Location', '')[:200]}: use that URL")
        return InvalidRequest(said)

    def _is_final(self) -> bool:
        """Whether the server says that the same texts would fail again (a header of OpenAI's, which we send, too)."""
        is_about_texts = self.status != 504 and not any(name in self._kinds() for name in _NOT_ABOUT_THE_TEXTS)
        return self.headers.get("x-should-retry") == "false" and is_about_texts

    def _kinds(self) -> tuple[object, ...]:
        error = _parsed(self.body)
        error = error.get("error", error) if isinstance(error, dict) else {}
        return (error.get("type"), error.get("code")) if isinstance(error, dict) else ()

    def words(self) -> str:
        """The server's message, on one line."""
        parsed = _parsed(self.body)
        found: Any = None
        if isinstance(parsed, dict):
            error = parsed.get("error")
            found = (error.get("message") if isinstance(error, dict) else error) or parsed.get("message")
            found = found or parsed.get("detail")
        text = found if isinstance(found, str) else self.body[:2000].decode("utf-8", "replace")
        line = " ".join(text.split()) or "no message"
        return line if len(line) <= _MAX_SHOWN else line[:_MAX_SHOWN] + "…"


def _parsed(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except ValueError:
        return None


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait, from OpenAI's `retry-after-ms`, or `Retry-After` as seconds or as a date; None: not given."""
    for name, unit_s in (("retry-after-ms", 0.001), ("Retry-After", 1.0)):
        value = headers.get(name, "").strip()
        try:
            pause_s = float(value) * unit_s
        except ValueError:
            continue
        return max(0.0, pause_s) if math.isfinite(pause_s) else None
    try:
        moment = email.utils.parsedate_to_datetime(headers.get("Retry-After", ""))
    except ValueError:
        return None
    return max(0.0, moment.timestamp() - time.time())
