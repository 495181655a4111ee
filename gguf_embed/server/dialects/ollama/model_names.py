"""Model names in Ollama's requests and replies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from gguf_embed.errors import InvalidRequest, ModelNotFound
from gguf_embed.server.fields.field import Body, Text
from gguf_embed.server.http.values import JsonObject, describe

_MAX_SHOWN = 200  # characters
_NOT_EMPTY = {"minLength": 1}
MODEL = Text(
    "model",
    "The model's name. An unknown name is always a 404, even if only one model is served.",
    required=True,
    limits=_NOT_EMPTY,
)
NAME = Text("model", "The model's name.", also=("name",), required=True, limits=_NOT_EMPTY)
SOURCE = Text("source", "The model.", required=True, limits=_NOT_EMPTY)
DESTINATION = Text("destination", "Its other name.", required=True, limits=_NOT_EMPTY)
NAMED = Body("OllamaName", (NAME,))
COPY = Body("OllamaCopyRequest", (SOURCE, DESTINATION))


def required_name(body: JsonObject, field: Text) -> str:
    """The first of the field's names that is set and not empty. Raises `InvalidRequest` if none is."""
    for name in field.given(body):
        if text := field.parse(body[name], name):
            return text
    found = describe(body.get(field.name))
    raise InvalidRequest(
        f'{field.name} is required: send "{field.name}" with a model\'s name, found {found}', field.name
    )


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
