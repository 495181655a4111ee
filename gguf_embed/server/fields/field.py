"""A field of a request, declared once: parsers read it, and `/openapi.json` and docs/api.md are made from it.

In a schema, `{"ref": "Name"}` is short for a `$ref`. Null is left out: every field that is not required may be null.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Any, Generic, Self, TypeVar

from gguf_embed.errors import InvalidRequest
from gguf_embed.server.http.values import JsonObject, describe, whole_number

Json = Mapping[str, Any]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Field:
    """What all kinds of fields have. `text` says what it means, with backticks around code."""

    name: str
    text: str = ""
    _: KW_ONLY
    also: tuple[str, ...] = ()  # other APIs' names for it
    default: str = ""  # as docs/api.md shows it
    see: str = ""  # the heading in docs/api.md that says more
    required: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name, *self.also)

    @property
    def values(self) -> Json:
        """The JSON Schema of its values, without null."""
        raise NotImplementedError

    def called(self, name: str) -> Self:
        """The same field where another of its names comes first."""
        return replace(self, name=name, also=tuple(other for other in self.names if other != name))

    def given(self, body: JsonObject) -> list[str]:
        """Its names that the body has with a value other than null."""
        return [name for name in self.names if body.get(name) is not None]

    def schema(self) -> dict[str, Any]:
        """Its JSON Schema, with what it means."""
        schema = dict(self.values) if self.required else or_null(self.values)
        text = self.text
        if self.also:
            text += f" Other APIs' names work too: {', '.join(f'`{name}`' for name in self.names)}."
        return schema | {"description": text} if text else schema


@dataclass(frozen=True, slots=True)
class Shaped(Field):
    """A value with a structure, which has its own parser."""

    shape: Json = field(kw_only=True)

    @property
    def values(self) -> Json:
        return self.shape


@dataclass(frozen=True, slots=True)
class Single(Field, Generic[T]):
    """One value, which the field itself reads."""

    def read(self, body: JsonObject) -> T | None:
        """The value, by any of its names; None if it is absent or null.

        Raises `InvalidRequest` for a wrong value, and for two names with different ones.
        """
        found = [(name, self.parse(body[name], name)) for name in self.given(body)]
        for name, value in found[1:]:
            if value != found[0][1]:
                raise contradiction(found[0][0], name)
        return found[0][1] if found else None

    def parse(self, value: object, name: str) -> T:
        """A value other than null; `name` is the name that it was sent by."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Text(Single[str]):
    """A string. Only the type is checked here: its limits have their own words, where it is parsed."""

    limits: Json = field(default_factory=dict, kw_only=True)  # minLength, maxLength, pattern

    @property
    def values(self) -> Json:
        return {"type": "string", **self.limits}

    def parse(self, value: object, name: str) -> str:
        if isinstance(value, str):
            return value
        raise InvalidRequest(f'"{name}" must be a string, found {describe(value)}', name)


@dataclass(frozen=True, slots=True)
class Flag(Single[bool]):
    """True or false."""

    @property
    def values(self) -> Json:
        return {"type": "boolean"}

    def parse(self, value: object, name: str) -> bool:
        if isinstance(value, bool):
            return value
        raise InvalidRequest(f'"{name}" must be true or false, found {describe(value)}', name)


@dataclass(frozen=True, slots=True)
class Whole(Single[int]):
    """An integer. 3.0 is one, as in JSON Schema."""

    minimum: int = field(kw_only=True)
    maximum: int | None = field(default=None, kw_only=True)
    refused: tuple[int, ...] = field(default=(), kw_only=True)  # above the minimum; its parser refuses them

    @property
    def values(self) -> Json:
        schema: dict[str, Any] = {"type": "integer", "minimum": self.minimum}
        if self.maximum is not None:
            schema["maximum"] = self.maximum
        return schema | {"not": {"enum": list(self.refused)}} if self.refused else schema

    def parse(self, value: object, name: str) -> int:
        number = whole_number(value)
        if number is not None and number >= self.minimum:
            if self.maximum is not None and number > self.maximum:
                raise InvalidRequest(f'"{name}" must be at most {self.maximum}, found {number}', name)
            return number
        raise InvalidRequest(f'"{name}" must be an integer of at least {self.minimum}, found {describe(value)}', name)


@dataclass(frozen=True, slots=True)
class Choice(Single[str]):
    """One of several words, in upper or lower case; it is read in lower case."""

    words: tuple[str, ...] = field(kw_only=True)

    @property
    def values(self) -> Json:
        return {"type": "string", "enum": list(self.words)}

    def parse(self, value: object, name: str) -> str:
        word = value.lower() if isinstance(value, str) else ""
        if word in self.words or word in map(str.lower, self.words):
            return word
        listed = ", ".join(f'"{choice}"' for choice in self.words)
        must_be = f"must be one of {listed}" if len(self.words) > 1 else f"can only be {listed}"
        raise InvalidRequest(f'"{name}" {must_be}, found {describe(value)}', name)


def contradiction(first: str, name: str) -> InvalidRequest:
    """The error for two names or fields that do not go together."""
    return InvalidRequest(f'"{first}" and "{name}" contradict each other: send only one of them', name)


@dataclass(frozen=True, slots=True)
class Body:
    """The fields of a request. A schema of this name describes it."""

    name: str
    fields: tuple[Field, ...] = ()
    text: str = ""
    _: KW_ONLY
    groups: tuple[Body, ...] = ()  # fields that several requests have
    rules: Json = field(default_factory=dict)  # JSON Schema on fields together
    default: str = ""  # as a group, in docs/api.md
    see: str = ""  # the heading in docs/api.md that has the fields of this group

    def schema(self) -> dict[str, Any]:
        schema: dict[str, Any] = {"type": "object", "description": self.text} if self.text else {"type": "object"}
        if required := [field.name for field in self.fields if field.required]:
            schema["required"] = required
        if self.groups:
            schema["allOf"] = [{"ref": group.name} for group in self.groups]
        properties = {field.name: field.schema() for field in self.fields}
        return schema | dict(self.rules) | {"properties": properties}


def or_null(values: Json) -> dict[str, Any]:
    """The schema of these values or null."""
    if "type" not in values:
        parts = values["anyOf"] if set(values) == {"anyOf"} else [values]
        return {"anyOf": [*parts, {"type": "null"}]}
    types = values["type"]
    return {**values, "type": [*([types] if isinstance(types, str) else types), "null"]}


def has(values: Mapping[str, Json]) -> Json:
    """The rule that a body has these fields with such values."""
    return {"required": list(values), "properties": values}


def is_given(name: str) -> Json:
    """The rule that a body has this field with a value other than null."""
    return has({name: {"not": {"type": "null"}}})
