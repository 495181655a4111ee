"""Fields that are one slip away from a known one: ignoring `truncat` would be a silent failure."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from itertools import islice

from gguf_embed.errors import InvalidRequest
from gguf_embed.server.fields import aliases
from gguf_embed.server.fields.field import Body
from gguf_embed.server.http.values import JsonObject

MIN_LENGTH = 5
"""Shorter words are too often one letter away from others: "text", "task"."""

ELSEWHERE = frozenset(
    {"context", "contents", "models"}  # Ollama's, Gemini's, OpenRouter's
    | {*aliases.TEXTS_ELSEWHERE, *aliases.UNSUPPORTED, *aliases.UNSUPPORTED_IF_FALSE, *aliases.KNOWN_FIELDS}
)
"""Fields of other APIs that happen to be close to ours; what they mean here is decided elsewhere."""

MAX_LOOKED_AT = 20
"""A body may have a million fields that nobody knows."""


def names_of(bodies: Iterable[Body]) -> frozenset[str]:
    """Every name of every field in these requests."""
    found: set[str] = set()
    for body in bodies:
        found.update(name for field in body.fields for name in field.names)
        found |= names_of(body.groups)
    return frozenset(found)


def refuse_misspelled(body: JsonObject, known: Collection[str]) -> None:
    """Raises `InvalidRequest` for a field that is unknown everywhere, and one edit away from one that is known.

    All other unknown fields are ignored, because clients send them to every server.
    """
    unknown = (name for name in body if name not in known and name not in ELSEWHERE)
    for name in islice(unknown, MAX_LOOKED_AT):
        if len(name) < MIN_LENGTH or body[name] is None:
            continue
        meant = min((one for one in known if is_one_edit(name, one)), default=None)
        if meant is not None:
            raise InvalidRequest(f'there is no field "{name}"; did you mean "{meant}"?', name)


def is_one_edit(name: str, other: str) -> bool:
    """Whether one letter more, less or different, or two neighbors that have changed places, make them equal."""
    if name == other or abs(len(name) - len(other)) > 1:
        return False
    start = next((at for at, (a, b) in enumerate(zip(name, other, strict=False)) if a != b), min(len(name), len(other)))
    a, b = name[start:], other[start:]
    return a[1:] == b or a == b[1:] or a[1:] == b[1:] or (a[1::-1] == b[:2] and a[2:] == b[2:])
