"""Parses whether and where long texts are cut, and formats what was cut."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from gguf_embed.errors import InvalidRequest
from gguf_embed.server.fields.aliases import CUT_WORDS, CUTTING, CutRole
from gguf_embed.server.fields.field import Body, Choice, Shaped, Whole, contradiction, has
from gguf_embed.server.http.values import JsonObject, describe, whole_number
from gguf_embed.types import Truncation

_T = TypeVar("_T")
_FIELDS = frozenset(CUTTING)
MIN_TOKENS = 3
"""The smallest length that a text may be cut to: one token between two special ones."""

_SIDES = {"left": True, "right": False}


def _names(role: CutRole) -> tuple[str, ...]:
    return tuple(name for name, has in CUTTING.items() if has == role)


def _values(meaning: str) -> list[bool | str]:
    """All values of `truncate` with this meaning."""
    flags = [flag for flag, meant in ((False, "none"), (True, "end")) if meant == meaning]
    return [*flags, meaning.upper(), *(word for word, meant in CUT_WORDS.items() if meant == meaning)]


_TRUNCATE, *_ALSO_TRUNCATE = _names("whether")
_SIDE, *_ALSO_SIDE = _names("side")
_CUT_TO, *_ALSO_CUT_TO = _names("cut_to")
_LIMIT, *_ALSO_LIMIT = _names("limit")

TRUNCATE = Shaped(
    _TRUNCATE,
    "Whether texts that are too long are truncated, which is reported, or are an error. `END`, the same as true, cuts "
    "off the end, `START` the beginning (but not the opening special tokens and the prompt). In "
    "upper or lower case. `right` and `auto` are `END`, too, `left` is `START`, `disabled` is `NONE`.",
    also=tuple(_ALSO_TRUNCATE),
    default="`--truncate`; on the routes of Cohere, TEI and Ollama `true`",
    shape={"type": ["boolean", "string"], "enum": [*_values("none"), *_values("end"), *_values("start")]},
)
SIDE = Choice(_SIDE, "The side that is cut off.", also=tuple(_ALSO_SIDE), default='`"Right"`', words=("Left", "Right"))
CUT_TO = Whole(
    _CUT_TO,
    f"Truncate texts to this number of tokens, {MIN_TOKENS} at least, special tokens included. -1: to the model's "
    "limit, which always applies.",
    also=tuple(_ALSO_CUT_TO),
    minimum=-1,
    refused=tuple(range(MIN_TOKENS)),
)
LIMIT = Whole(
    _LIMIT,
    "A lower limit on the tokens of a text, special tokens included. Whether a longer one is truncated or an error "
    "depends on the other fields.",
    also=tuple(_ALSO_LIMIT),
    minimum=MIN_TOKENS,
)
CUTTING_FIELDS = Body(
    "CuttingFields",
    (TRUNCATE, SIDE, CUT_TO, LIMIT),
    "Whether and where texts that are too long are truncated.",
    rules={"not": has({_TRUNCATE: {"enum": _values("none")}, _CUT_TO: {"type": "integer"}})},
    default="`--truncate`",
    see="Truncation",
)
"""The fields by their first names."""


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


def _whether(body: JsonObject) -> Iterator[tuple[str, bool]]:
    for name in TRUNCATE.given(body):
        yield name, _word(name, body[name]) != "none"
    for name in CUT_TO.given(body):
        yield name, True


def _starts(body: JsonObject) -> Iterator[tuple[str, bool]]:
    """The side, where a word names one: `true` does not."""
    for name in TRUNCATE.given(body):
        value = body[name]
        word = value.lower() if isinstance(value, str) else ""
        if word in ("start", "left", "end", "right"):
            yield name, _word(name, value) == "start"


def _sides(body: JsonObject) -> Iterator[tuple[str, bool]]:
    for name in SIDE.given(body):
        yield name, _SIDES[SIDE.parse(body[name], name)]


def _lengths(body: JsonObject) -> Iterator[tuple[str, int]]:
    for name in CUT_TO.given(body):
        number = whole_number(body[name])
        if number is None or number < CUT_TO.minimum or number in CUT_TO.refused:
            raise InvalidRequest(
                f'"{name}" must be an integer of at least {MIN_TOKENS}, or -1 for the model\'s limit, found '
                f"{describe(body[name])}",
                name,
            )
        yield name, number
    for name in LIMIT.given(body):
        yield name, LIMIT.parse(body[name], name)


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
            raise contradiction(first[0], name)
    return None if first is None else first[1]


def format_truncation(cut: Truncation) -> dict[str, int]:
    """What was cut, in our replies' format."""
    return {"n_tokens": cut.n_tokens, "n_kept": cut.n_kept, "n_dropped": cut.n_dropped}
