"""Model names in Ollama's requests and replies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from gguf_embed.errors import InvalidRequest, ModelNotFound
from gguf_embed.server.http.values import JsonObject, describe, optional_str

_MAX_SHOWN = 200  # characters


def required_name(body: JsonObject, *fields: str) -> str:
    """The first of these fields that is set. Raises `InvalidRequest` if none is."""
    for field in fields:
        if name := optional_str(body, field):
            return name
    found = describe(body.get(fields[0]))
    raise InvalidRequest(f'{fields[0]} is required: send "{fields[0]}" with a model\'s name, found {found}', fields[0])


@contextmanager
def missing_as(words: str, name: str) -> Iterator[None]:
    """Report a missing model with Ollama's own message for this route. `{}` in `words` stands for the name."""
    try:
        yield
    except ModelNotFound as exc:
        shown = name if len(name) <= _MAX_SHOWN else name[:_MAX_SHOWN] + "…"
        raise ModelNotFound(words.format(shown)) from exc


def with_tag(name: str) -> str:
    """ "x:latest" for "x": Ollama lists every name with its tag, and some clients compare whole names (Open WebUI)."""
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"
