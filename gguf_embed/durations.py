"""Durations as Go and Ollama write them: "5m", "1h30m", "300ms"."""

from __future__ import annotations

import math
import re

_UNITS_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)")
GO_DURATION = rf"^[+-]?(({_PART.pattern})+|0)$"
"""A pattern of the durations that Go's time.ParseDuration reads."""

_WHOLE = re.compile(GO_DURATION)


def parse_go_duration(text: str) -> float:
    """The duration in seconds, which may be negative. Raises `ValueError` for what Go's time.ParseDuration refuses."""
    if _WHOLE.fullmatch(text) is None:
        raise ValueError(f"{text!r} is not a duration such as 5m, 1h30m or 300ms")
    seconds = math.fsum(float(number) * _UNITS_S[unit] for number, unit in _PART.findall(text))
    return -seconds if text.startswith("-") else seconds


def keep_alive_seconds(seconds: float) -> float:
    """Ollama's rule: a negative time to stay loaded means forever, which is `inf` here."""
    return math.inf if seconds < 0 else seconds
