"""Ollama's `options` and `keep_alive`: how the model is loaded, and for how long."""

from __future__ import annotations

import math
from collections.abc import Mapping

from gguf_embed.durations import GO_DURATION, keep_alive_seconds, parse_go_duration
from gguf_embed.errors import InvalidRequest
from gguf_embed.server.fields.field import Shaped
from gguf_embed.server.http.values import describe, whole_number
from gguf_embed.types import NO_LOAD_OPTIONS, LoadOptions

_MAX_INT = 2**31 - 1  # llama.cpp keeps them in an int32
LOAD_OPTIONS = {"num_ctx": 1, "num_thread": 0, "num_gpu": -1, "num_batch": 0}
"""Options that apply to an embedding model here, with their minimums. All others (temperature, …) are ignored."""

OPTIONS = Shaped(
    "options",
    "`num_ctx`, `num_thread`, `num_gpu` (-1: all layers), `num_batch`; all others are ignored.",
    shape={
        "type": "object",
        "properties": {
            name: {"type": ["integer", "null"], "minimum": minimum, "maximum": _MAX_INT}
            for name, minimum in LOAD_OPTIONS.items()
        },
    },
)
KEEP_ALIVE = Shaped(
    "keep_alive",
    "How long the model stays loaded: seconds, or a duration such as `5m` or `1h30m`; negative: forever; 0: unload "
    "after the answer.",
    default="`--keep-alive`",
    shape={"anyOf": [{"type": "number"}, {"type": "string", "pattern": f"{GO_DURATION}|^-1$"}]},
)
_LONGEST_S = (2**63 - 1) / 1e9  # Go counts nanoseconds in an int64: 292 years


def parse_load_options(value: object) -> LoadOptions:
    """Parse `options`. Raises `InvalidRequest` naming the option.

    For threads and batch tokens, 0 is Ollama's "automatic" and means the server's setting. For layers on the GPU, -1 is
    Ollama's "as many as fit" and means all.
    """
    if value is None:
        return NO_LOAD_OPTIONS
    if not isinstance(value, Mapping):
        raise InvalidRequest(f'"options" must be an object, found {describe(value)}', "options")
    options = LoadOptions(
        n_ctx=_option(value, "num_ctx"),
        n_threads=_option(value, "num_thread") or None,
        n_gpu_layers=_option(value, "num_gpu"),
        batch_tokens=_option(value, "num_batch") or None,
    )
    return NO_LOAD_OPTIONS if options == NO_LOAD_OPTIONS else options


def _option(options: Mapping[str, object], name: str) -> int | None:
    """A whole number; 512.0 counts, because Ollama reads every JSON number as a float (api/types.go, FromMap)."""
    value, minimum = options.get(name), LOAD_OPTIONS[name]
    if value is None:
        return None
    whole = whole_number(value)
    if whole is not None and minimum <= whole <= _MAX_INT:
        return whole
    raise InvalidRequest(
        f'option "{name}" must be of type integer, from {minimum} to {_MAX_INT}, found {describe(value)}', "options"
    )


def parse_keep_alive(value: object) -> float | None:
    """`keep_alive` in seconds; inf: forever, None: absent.

    A number is seconds, a string a Go duration. Negative values mean forever, 0 means to unload as soon as the model is
    idle. "-1" is accepted too, because people set it in OLLAMA_KEEP_ALIVE; as in Ollama, other strings without a unit
    are refused. Source: api/types.go, Duration.UnmarshalJSON. Raises `InvalidRequest`.
    """
    seconds = _seconds(value)
    if seconds is not None:
        return math.inf if seconds > _LONGEST_S else keep_alive_seconds(seconds)
    if value is None:
        return None
    raise InvalidRequest(
        '"keep_alive" must be seconds as a number, or a duration with units such as "5m", "1h30m" or "300ms" '
        f"(negative: forever, 0: unload), found {describe(value)}",
        "keep_alive",
    )


def _seconds(value: object) -> float | None:
    match value:
        case bool():
            return None
        case int() | float():
            return float(value)
        case "-1":
            return -1.0
        case str():
            try:
                seconds = parse_go_duration(value)
            except ValueError:
                return None
            return seconds if abs(seconds) <= _LONGEST_S else None
        case _:
            return None
