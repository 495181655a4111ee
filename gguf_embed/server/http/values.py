"""What kind of JSON value a client sent, and the words for it in errors."""

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


def whole_number(value: object) -> int | None:
    """An integer; None for another value. 512.0 is one, as in JSON Schema: not every language writes 512."""
    match value:
        case bool():
            return None
        case int():
            return value
        case float() if value.is_integer():
            return int(value)
        case _:
            return None
