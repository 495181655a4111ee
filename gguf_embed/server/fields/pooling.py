"""The pooling that a request asks for."""

from __future__ import annotations

from gguf_embed.server.http.values import JsonObject, optional_choice
from gguf_embed.types import Pooling

_POOLINGS = ("none", "mean", "cls", "last")  # rank gives scores, not vectors


def parse_pooling(body: JsonObject) -> Pooling | None:
    """The pooling asked for this request alone; None when not asked."""
    name = optional_choice(body, "pooling", _POOLINGS)
    return None if name is None else Pooling(name)
