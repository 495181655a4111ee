"""Parses the requested pooling, and checks that a route's reply can hold the output."""

from __future__ import annotations

from collections.abc import Collection

from gguf_embed.errors import EmbedError, InvalidRequest, NotSupported, WayOut
from gguf_embed.server.fields.field import Choice
from gguf_embed.server.http.values import JsonObject
from gguf_embed.types import JOINT, MULTIVECTOR, SPARSE, TOKENS, Output, OutputSpec, Pooling
from gguf_embed.vectors import Rows

POOLING = Choice(
    "pooling",
    "Pooling for this request. `none`: one row per token.",
    default="the model's",
    words=("none", "mean", "cls", "last"),  # rank gives scores, not vectors
)


def parse_pooling(body: JsonObject, field: Choice = POOLING) -> OutputSpec | None:
    """The output for the request's `pooling`; None if it is absent."""
    name = field.read(body)
    return None if name is None else OutputSpec.of(Pooling(name))


def check_output(output: OutputSpec, kinds: Collection[str], *, on_request: bool) -> None:
    """Refuse an output whose kind is not among `kinds`, which are those that the route's replies can hold.

    Raises `InvalidRequest` with `on_request`, that is if the request asked for it, else `NotSupported`.
    """
    if output.kind in kinds:
        return
    ways_out = [WayOut.POOL, *([WayOut.TOKEN_VECTORS] if output.kind == TOKENS else [])]
    if output.kind in (SPARSE, MULTIVECTOR, JOINT):
        message, ways_out = f"this route cannot return {output.kind} vectors", [WayOut.HEAD_VECTORS]
    else:
        what = "one vector per token" if output.kind == TOKENS else output.kind
        message = f"pooling {output.pooling_name} gives {what}, which this route cannot return"
    error: EmbedError = NotSupported(message, ways_out)
    if on_request:
        error = InvalidRequest(message, "pooling", ways_out=ways_out)
    raise error


def rows_of(output: Output) -> Rows:
    """The output as rows, for a route that has checked its kind with `check_output`."""
    assert isinstance(output, Rows), output.kind
    return output
