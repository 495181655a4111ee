"""Checks JSON against the schemas of the OpenAPI description, with jsonschema."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.protocols import Validator
from jsonschema.validators import extend

Schema = Mapping[str, Any]


def _is_integer(checker: object, value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


# JSON Schema calls 1.0 an integer, but not every client can read it as one.
_Strict: type[Validator] = extend(
    Draft202012Validator, type_checker=Draft202012Validator.TYPE_CHECKER.redefine("integer", _is_integer)
)


def faults(value: object, schema: Schema, known: Mapping[str, Schema]) -> list[str]:
    """Where and why a value does not match the schema. `known`: the schemas that a `$ref` may name."""
    validator = _Strict({**schema, "components": {"schemas": known}})
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(value)]


def closed(schema: Any) -> Any:
    """The schema without room for fields that it does not name, at any depth. For schemas without allOf."""
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    tight = {key: closed(value) for key, value in schema.items()}
    return {"additionalProperties": False, **tight} if "properties" in schema else tight


def keywords(schema: object) -> Iterator[str]:
    """Every keyword of a schema, at any depth; the names of properties are none."""
    if isinstance(schema, list):
        for part in schema:
            yield from keywords(part)
    if isinstance(schema, dict):
        for keyword, value in schema.items():
            yield keyword
            yield from keywords(list(value.values()) if keyword == "properties" else value)
