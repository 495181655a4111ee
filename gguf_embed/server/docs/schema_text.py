"""JSON Schema in words: the fields of an object, and the names of types."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]

_PLURALS = {"string": "strings", "number": "numbers", "integer": "integers", "object": "objects", "boolean": "booleans"}

_MAX_CHOICES = 8  # are listed; of more, only the type is


@dataclass(frozen=True, slots=True)
class Field:
    """One property of an object."""

    name: str
    schema: Json
    text: str
    required: bool


def name_of(schema: Json) -> str | None:
    """ "Vector" of a reference to [schemas.Vector], else None."""
    reference = schema.get("$ref")
    return reference.rpartition("/")[2] if isinstance(reference, str) else None


def fields_of(schema: Json, schemas: Mapping[str, Json]) -> Iterator[Field]:
    """The properties of an object: its own first, then those of the schemas it includes (allOf)."""
    required = schema.get("required", [])
    for name, described in schema.get("properties", {}).items():
        text = described.get("description", "")
        if not text and (known := name_of(described)):
            text = schemas[known].get("description", "")
        yield Field(name, described, text, name in required)
    for part in schema.get("allOf", []):
        included = name_of(part)
        yield from fields_of(schemas[included] if included else part, schemas)


def type_words(schema: Json, *, many: bool = False) -> str:
    """The type of a schema in words: "array of strings", "Vector or string". Null means absent, so it is left out."""
    if name := name_of(schema):
        return name
    choices = [choice for choice in schema.get("enum", []) if choice is not None]
    if 0 < len(choices) <= _MAX_CHOICES:
        return " or ".join(f'"{choice}"' if isinstance(choice, str) else str(choice) for choice in choices)
    if parts := schema.get("anyOf"):
        words_of_parts = dict.fromkeys(type_words(part, many=many) for part in parts)
        return " or ".join(part for part in words_of_parts if part)
    types = schema.get("type", "anything")
    words = [kind for kind in ([types] if isinstance(types, str) else types) if kind != "null"]
    return " or ".join(_one_type(kind, schema, many) for kind in words)


def _one_type(kind: str, schema: Json, many: bool) -> str:
    if kind != "array":
        return _PLURALS.get(kind, kind) if many else kind
    items = type_words(schema["items"], many=True) if "items" in schema else "anything"
    return f"{'arrays' if many else 'array'} of {items}"
