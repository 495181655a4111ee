"""Which output a request asks for, and whether its route can hold it."""

from __future__ import annotations

from collections.abc import Collection

from gguf_embed.errors import EmbedError, InvalidRequest, NotSupported, WayOut
from gguf_embed.server.http.values import JsonObject, optional_choice
from gguf_embed.types import TOKENS, Output, OutputSpec, Pooling
from gguf_embed.vectors import Rows

_POOLINGS = ("none", "mean", "cls", "last")  # rank gives scores, not vectors


def parse_pooling(body: JsonObject, poolings: tuple[str, ...] = _POOLINGS) -> OutputSpec | None:
    """The output of the pooling that is asked for this request alone; None when none is."""
    name = optional_choice(body, "pooling", poolings)
    return None if name is None else OutputSpec.of(Pooling(name))


def check_output(output: OutputSpec, kinds: Collection[str], *, on_request: bool) -> None:
    """Refuse an output that a route's replies cannot hold; `kinds` are those that they can.

    Raises `InvalidRequest` where the request asked for it, `NotSupported` where the model is served so.
    """
    if output.kind in kinds:
        return
    what = "one vector per token" if output.kind == TOKENS else output.kind
    message = f"pooling {output.pooling_name} gives {what}, which has no place in this route's replies"
    ways_out = [WayOut.POOL, *([WayOut.TOKEN_VECTORS] if output.kind == TOKENS else [])]
    error: EmbedError = NotSupported(message, ways_out)
    if on_request:
        error = InvalidRequest(message, "pooling", ways_out=ways_out)
    raise error


def rows_of(output: Output) -> Rows:
    """The output of a route whose `check_output` lets rows through only."""
    assert isinstance(output, Rows), output.kind
    return output
