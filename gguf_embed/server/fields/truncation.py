"""Parses whether and where long texts are cut, and formats what was cut."""

from __future__ import annotations

from gguf_embed.errors import InvalidRequest
from gguf_embed.server.http.values import JsonObject, optional_bool, optional_choice
from gguf_embed.types import Truncation


def parse_truncate(body: JsonObject) -> bool:
    """Whether to cut long texts. The default is true, as in TEI (its `--auto-truncate`).

    Raises `InvalidRequest` for `truncation_direction` "left", because this server only cuts the end.
    """
    check_direction(body)
    truncate = optional_bool(body, "truncate")
    return True if truncate is None else truncate


def check_direction(body: JsonObject) -> None:
    """Refuse TEI's `truncation_direction` "Left"."""
    value = body.get("truncation_direction")
    if isinstance(value, str) and value.lower() == "left":
        raise InvalidRequest(
            'this server only cuts the end of a text: "truncation_direction" must be "Right", or cut the text yourself',
            "truncation_direction",
        )
    optional_choice(body, "truncation_direction", ("Right",))


def format_truncation(cut: Truncation) -> dict[str, int]:
    """What was cut, in our replies' format."""
    return {"n_tokens": cut.n_tokens, "n_kept": cut.n_kept, "n_dropped": cut.n_dropped}
