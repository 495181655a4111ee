"""As much of JSON Schema as our OpenAPI description uses; any other keyword is an error, so that none is overlooked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Schema = Mapping[str, Any]

_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}
_NOTES = {"description", "format", "maxLength"}


def faults(value: object, schema: Schema, known: Mapping[str, Schema], where: str = "$") -> Iterator[str]:
    """Where a value is not what the schema says, and why."""
    for keyword, wanted in schema.items():
        match keyword:
            case "$ref":
                yield from faults(value, known[wanted.rpartition("/")[2]], known, where)
            case "type":
                if not any(_is(value, name) for name in ([wanted] if isinstance(wanted, str) else wanted)):
                    yield f"{where}: {value!r:.60} is no {wanted}"
            case "enum":
                if value not in wanted:
                    yield f"{where}: {value!r:.60} is not one of {wanted}"
            case "anyOf":
                tries = [list(faults(value, part, known, where)) for part in wanted]
                if all(tries):
                    yield f"{where}: fits none: {tries}"
            case "allOf":
                for part in wanted:
                    yield from faults(value, part, known, where)
            case "minimum":
                if _is(value, "number") and value < wanted:
                    yield f"{where}: {value} is under {wanted}"
            case "required" | "properties" | "additionalProperties":
                if isinstance(value, dict):
                    yield from _in_object(value, keyword, schema, known, where)
            case "items" | "minItems" | "maxItems":
                if isinstance(value, list):
                    yield from _in_array(value, keyword, wanted, known, where)
            case _:
                assert keyword in _NOTES, f"{keyword} is not checked here"


def _is(value: object, name: str) -> bool:
    return isinstance(value, _TYPES[name]) and (name == "boolean" or not isinstance(value, bool))


def _in_object(
    value: dict[str, object], keyword: str, schema: Schema, known: Mapping[str, Schema], where: str
) -> Iterator[str]:
    own = schema.get("properties", {})
    match keyword:
        case "required":
            yield from (f"{where}.{name} is missing" for name in schema["required"] if name not in value)
        case "properties":
            for name in own.keys() & value.keys():
                yield from faults(value[name], own[name], known, f"{where}.{name}")
        case _:
            for name in value.keys() - own.keys():
                yield from faults(value[name], schema["additionalProperties"], known, f"{where}.{name}")


def _in_array(value: list[object], keyword: str, wanted: Any, known: Mapping[str, Schema], where: str) -> Iterator[str]:
    if keyword != "items":
        if len(value) < wanted if keyword == "minItems" else len(value) > wanted:
            yield f"{where} has {len(value)} entries"
        return
    for index, entry in enumerate(value):
        yield from faults(entry, wanted, known, f"{where}[{index}]")


def undescribed(value: object, schema: Schema, known: Mapping[str, Schema]) -> set[str]:
    """The fields, at any depth, that the schema does not name; of anyOf, the part that fits counts."""
    if "$ref" in schema:
        return undescribed(value, known[schema["$ref"].rpartition("/")[2]], known)
    if "anyOf" in schema:
        fitting = [part for part in schema["anyOf"] if not list(faults(value, part, known))]
        return min((undescribed(value, part, known) for part in fitting), key=len)
    if isinstance(value, list) and "items" in schema:
        return {name for entry in value for name in undescribed(entry, schema["items"], known)}
    if not isinstance(value, dict) or "properties" not in schema:
        return set()
    inner = {
        n
        for name in value.keys() & schema["properties"].keys()
        for n in undescribed(value[name], schema["properties"][name], known)
    }
    return (value.keys() - schema["properties"].keys()) | inner
