"""Parses each entry of an array, and names all that are wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from gguf_embed.errors import InvalidRequest, WrongEntries
from gguf_embed.server.http.values import describe, wrong_value

Parsed = TypeVar("Parsed")


def parse_each(entries: Sequence[object], parse: Callable[[object, int], Parsed]) -> tuple[Parsed, ...]:
    """What `parse` makes of each entry and its index. Raises `InvalidRequest` with the index of each that is wrong."""
    found: list[Parsed] = []
    wrong: list[int] = []
    first: InvalidRequest | None = None
    for index, entry in enumerate(entries):
        try:
            found.append(parse(entry, index))
        except InvalidRequest as error:
            first = first or error
            wrong.append(index)
    if first is None:
        return tuple(found)
    try:
        if len(wrong) > 1:
            raise WrongEntries(first, wrong)
        raise InvalidRequest(first.message, first.param, wrong[0]) from None
    finally:
        del first  # an error refers to this frame, which must not refer to it


def parse_strings(entries: Sequence[object], param: str, where: str | None = None) -> tuple[str, ...]:
    """Entries that must all be strings. `where` names the array in errors; default `param`."""

    def parse(entry: object, index: int) -> str:
        if not isinstance(entry, str):
            raise InvalidRequest(f'"{where or param}[{index}]" must be a string, found {describe(entry)}', param)
        return entry

    return parse_each(entries, parse)


def text_or_texts(value: object, param: str) -> tuple[str, ...]:
    """A string, or an array of strings that is not empty. Raises `InvalidRequest`."""
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, list) or not value:
        raise wrong_value(param, "a string or a non-empty array of strings", value)
    return parse_strings(value, param)
