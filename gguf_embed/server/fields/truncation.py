"""Parses whether and where long texts are cut, and formats what was cut."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from gguf_embed.errors import InvalidRequest
from gguf_embed.server.fields.aliases import CUT_WORDS, CUTTING
from gguf_embed.server.http.values import JsonObject, describe, is_int, optional_choice, optional_int
from gguf_embed.types import Truncation

_T = TypeVar("_T")
_FIELDS = frozenset(CUTTING)
MIN_TOKENS = 3
"""The smallest length that a text may be cut to: one token between two special ones."""

_SIDES = {"left": True, "right": False}


@dataclass(frozen=True, slots=True)
class Cutting:
    """Whether and where a text is cut. `truncate` None: the server's or the dialect's default."""

    truncate: bool | None = None
    max_tokens: int | None = None  # per text; None: the model's limit
    cut_start: bool = False


NO_CUTTING = Cutting()


def parse_cutting(body: JsonObject, default: bool | None = None) -> Cutting:
    """All fields of `aliases.CUTTING` together. `default`: the dialect's own for `truncate`.

    Raises `InvalidRequest` for a wrong value, and for two fields that contradict each other.
    """
    if _FIELDS.isdisjoint(body):
        return NO_CUTTING if default is None else Cutting(default)
    truncate = _one_value(_whether(body))
    cut_start = _one_value((*_starts(body), *_sides(body)))
    length = _one_value(_lengths(body))
    return Cutting(default if truncate is None else truncate, length if length != -1 else None, cut_start or False)


def _named(body: JsonObject, role: str) -> Iterator[str]:
    """The names with this role that the body has with a value other than null."""
    return (name for name, has in CUTTING.items() if has == role and body.get(name) is not None)


def _whether(body: JsonObject) -> Iterator[tuple[str, bool]]:
    for name in _named(body, "whether"):
        yield name, _word(name, body[name]) != "none"
    for name in _named(body, "cut_to"):
        yield name, True


def _starts(body: JsonObject) -> Iterator[tuple[str, bool]]:
    """The side, where a word names one: `true` does not."""
    for name in _named(body, "whether"):
        value = body[name]
        word = value.lower() if isinstance(value, str) else ""
        if word in ("start", "left", "end", "right"):
            yield name, _word(name, value) == "start"


def _sides(body: JsonObject) -> Iterator[tuple[str, bool]]:
    for name in _named(body, "side"):
        side = optional_choice(body, name, ("Left", "Right"))
        yield name, _SIDES[side or "right"]


def _lengths(body: JsonObject) -> Iterator[tuple[str, int]]:
    for name in _named(body, "cut_to"):
        value = body[name]
        if not (isinstance(value, int) and is_int(value) and (value >= MIN_TOKENS or value == -1)):
            raise InvalidRequest(
                f'"{name}" must be an integer of at least {MIN_TOKENS}, or -1 for the model\'s limit, found '
                f"{describe(value)}",
                name,
            )
        yield name, value
    for name in _named(body, "limit"):
        value = optional_int(body, name, minimum=MIN_TOKENS)
        yield name, value or MIN_TOKENS


def _word(name: str, value: object) -> str:
    word = CUT_WORDS.get(value.lower()) if isinstance(value, str) else None
    if isinstance(value, bool):
        word = "end" if value else "none"
    if word is None:
        raise InvalidRequest(f'"{name}" must be true, false, "NONE", "END" or "START", found {describe(value)}', name)
    return word


def _one_value(values: Iterable[tuple[str, _T]]) -> _T | None:
    """The value of all the fields, None if there is none. Raises `InvalidRequest` for two that differ."""
    first: tuple[str, _T] | None = None
    for name, value in values:
        if first is None:
            first = name, value
        elif value != first[1]:
            raise InvalidRequest(f'"{first[0]}" and "{name}" contradict each other: send only one of them', name)
    return None if first is None else first[1]


def format_truncation(cut: Truncation) -> dict[str, int]:
    """What was cut, in our replies' format."""
    return {"n_tokens": cut.n_tokens, "n_kept": cut.n_kept, "n_dropped": cut.n_dropped}
