"""Whether a text that is too long is cut, from which end, and how a reply reports it."""

from __future__ import annotations

from gguf_embed.errors import InvalidRequest
from gguf_embed.server.http.values import JsonObject, optional_bool, optional_choice
from gguf_embed.types import Truncation


def parse_truncate(body: JsonObject) -> bool:
    """Whether to cut what is too long: yes, as TEI does unasked (its `--auto-truncate`), unless it is told not to.

    Raises `InvalidRequest` for `truncation_direction` "left": only the beginning of a text can be kept here.
    """
    check_direction(body)
    truncate = optional_bool(body, "truncate")
    return True if truncate is None else truncate


def check_direction(body: JsonObject) -> None:
    """Refuse TEI's `truncation_direction` "Left"."""
    value = body.get("truncation_direction")
    if isinstance(value, str) and value.lower() == "left":
        raise InvalidRequest(
            'this server keeps the beginning of a text: "truncation_direction" must be "Right"; '
            "cut the text yourself to keep its end",
            "truncation_direction",
        )
    optional_choice(body, "truncation_direction", ("Right",))


def format_truncation(cut: Truncation) -> dict[str, int]:
    """What was cut, in the words of our replies."""
    return {"n_tokens": cut.n_tokens, "n_kept": cut.n_kept, "n_dropped": cut.n_dropped}
