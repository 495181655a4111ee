"""Reads single fields of a JSON object. A value of the wrong type raises `InvalidRequest` naming what was found."""

from __future__ import annotations

from collections.abc import Mapping

from gguf_embed.errors import InvalidRequest

JsonObject = Mapping[str, object]

_MAX_SHOWN = 60  # characters of a client's value repeated in a message


def describe(value: object) -> str:
    """A short description of a JSON value for an error message: `the string "abc"`, `an empty array`, `null`."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case int() | float():
            return f"the number {value}"
        case str():
            shown = value if len(value) <= _MAX_SHOWN else value[:_MAX_SHOWN] + "…"
            return f'the string "{shown}"'
        case list():
            return f"an array of {len(value)}" if value else "an empty array"
        case _:
            return "an object"


def wrong_value(name: str, expected: str, value: object) -> InvalidRequest:
    """The error for a required field that is missing or has a wrong value."""
    if value is None:
        return InvalidRequest(f'"{name}" must be provided: {expected}', name)
    return InvalidRequest(f'"{name}" must be {expected}, found {describe(value)}', name)


def is_int(value: object) -> bool:
    """Whether a JSON value is an integer. In Python, but not in JSON, true and false are integers."""
    return isinstance(value, int) and not isinstance(value, bool)


def optional_bool(body: JsonObject, name: str) -> bool | None:
    """The field, or None if it is absent or null."""
    value = body.get(name)
    if value is None or isinstance(value, bool):
        return value
    raise InvalidRequest(f'"{name}" must be true or false, found {describe(value)}', name)


def optional_int(body: JsonObject, name: str, minimum: int) -> int | None:
    """The field, or None if it is absent or null."""
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, int) and not isinstance(value, bool) and value >= minimum:
        return value
    raise InvalidRequest(f'"{name}" must be an integer of at least {minimum}, found {describe(value)}', name)


def optional_str(body: JsonObject, name: str) -> str | None:
    """The field, or None if it is absent or null."""
    value = body.get(name)
    if value is None or isinstance(value, str):
        return value
    raise InvalidRequest(f'"{name}" must be a string, found {describe(value)}', name)


def optional_choice(body: JsonObject, name: str, choices: tuple[str, ...]) -> str | None:
    """The field in lower case, one of `choices` ignoring case, or None if it is absent or null."""
    value = body.get(name)
    if value is None:
        return None
    word = value.lower() if isinstance(value, str) else ""
    if word in choices or word in map(str.lower, choices):
        return word
    listed = ", ".join(f'"{choice}"' for choice in choices)
    must_be = f"must be one of {listed}" if len(choices) > 1 else f"can only be {listed}"
    raise InvalidRequest(f'"{name}" {must_be}, found {describe(value)}', name)
