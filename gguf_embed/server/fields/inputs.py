"""Parses `input` and `content`. The rules are llama-server's, a superset of OpenAI's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn, cast

from gguf_embed.errors import InvalidRequest, NotSupported, WayOut
from gguf_embed.server.fields.entries import parse_each
from gguf_embed.server.fields.field import Json
from gguf_embed.server.http.errors import NoInputs, TooManyInputs
from gguf_embed.server.http.values import describe, whole_number
from gguf_embed.types import Input

MAX_TOKEN_ID = 2**31 - 1
"""llama.cpp's token ids are int32. The vocabulary's own limit is checked later, when the model is known."""

_TOKEN: Json = {"type": "integer", "minimum": 0, "maximum": MAX_TOKEN_ID}
_TEXT: Json = {"type": "string"}
PARTS: Json = {"type": "array", "items": {"anyOf": [_TOKEN, _TEXT]}}
"""Token ids, texts, or both, that form one sequence."""
_SEQUENCE: Json = {**PARTS, "contains": {"type": "integer"}}
TOKENS: Json = {"ref": "Tokens"}
_MARKED: Json = {
    "type": "object",
    "required": ["prompt_string"],
    "properties": {"prompt_string": _TEXT, "multimodal_data": {"type": ["array", "null"], "maxItems": 0}},
}
SCHEMAS: Json = {
    "Tokens": {
        "type": "array",
        "description": "Token ids of this model. They are used as they are; no special tokens are added.",
        "items": _TOKEN,
    },
    "OneInput": {
        "description": "A text, or one sequence of token ids and texts. Images need a model that reads them.",
        "anyOf": [_TEXT, _SEQUENCE, {"ref": "MarkedText"}, {"ref": "ContentParts"}, {"ref": "TextOrImage"}],
    },
    "Input": {
        "description": "One input, or an array of them. An array with a number in it is one input.",
        "anyOf": [{"ref": "OneInput"}, {"type": "array", "items": {"ref": "OneInput"}, "minItems": 1}],
    },
    "OneTextInput": {
        "description": "A text, or one sequence of token ids and texts.",
        "anyOf": [_TEXT, _SEQUENCE, _MARKED],
    },
    "TextInput": {
        "description": "One text or sequence of token ids, or an array of them. Texts and numbers in one array are "
        "refused.",
        "anyOf": [
            _TEXT,
            {"type": "array", "items": _TOKEN, "minItems": 1},
            _MARKED,
            {"type": "array", "items": {"ref": "OneTextInput"}, "minItems": 1},
        ],
    },
}

_EXPECTED = "a string, an array of token ids, or an array of those"


class MixedInputs(InvalidRequest):
    """An array of texts and numbers, which may be meant as one input or as several."""


def parse_inputs(value: object, param: str, max_inputs: int, *, joins_mixed: bool = True) -> tuple[Input, ...]:
    """Parse one or many inputs.

    A string is one input. So is an array with a number in it: token ids, possibly with texts between them. Any other
    array has one input per entry. Without `joins_mixed`, an array of texts and numbers raises `MixedInputs`. Raises
    `InvalidRequest` naming the entry, `NotSupported` for images and sound.
    """
    if not isinstance(value, list):
        return (parse_input(value, param, param),)
    if not value:
        raise NoInputs(f'"{param}" must not be empty', param)
    kinds = set(map(type, value))
    if float in kinds:
        value = _with_whole_numbers(value)
        kinds = set(map(type, value))
    if int in kinds or (float in kinds and (joins_mixed or kinds == {float})):
        if not joins_mixed and not kinds <= {int, float}:
            _refuse_mixture(value, param)
        return (parse_parts(value, param),)
    check_count(value, param, max_inputs)
    if kinds == {str}:
        return tuple(value)
    return parse_entries(value, param)


def parse_entries(entries: Sequence[object], param: str) -> tuple[Input, ...]:
    """Parse several inputs. Raises `InvalidRequest` with the indexes of all that are wrong."""
    return parse_each(entries, lambda entry, index: parse_entry(entry, param, index))


def check_count(entries: Sequence[object], param: str, max_inputs: int) -> None:
    """Raises `NoInputs` or `TooManyInputs`."""
    if not entries:
        raise NoInputs(f'"{param}" must not be empty', param)
    if len(entries) > max_inputs:
        raise TooManyInputs(
            f'"{param}" has {len(entries)} entries, the limit per request is {max_inputs}: send several requests', param
        )


def parse_entry(entry: object, param: str, index: int) -> Input:
    """Parse one input of several. Errors have its index."""
    try:
        return parse_input(entry, f"{param}[{index}]", param)
    except InvalidRequest as error:
        raise InvalidRequest(error.message, error.param, index) from None


def _refuse_mixture(value: list[object], param: str) -> NoReturn:
    index = next(index for index, entry in enumerate(value) if _is_id(entry))
    raise MixedInputs(
        f'"{param}[{index}]" is {describe(value[index])}, which makes the array one input instead of one per entry: '
        "send each text as a string, and token ids in an array of their own",
        param,
    )


def parse_parts(value: list[object], param: str, where: str | None = None) -> tuple[int | str, ...]:
    """Parse one sequence of token ids, texts, or both. `where` names it in errors; default `param`."""
    where = where or param
    kinds = set(map(type, value))
    if not kinds <= {int, str}:
        value = _with_whole_numbers(value)
        for index, entry in enumerate(value):
            if not (_is_id(entry) or isinstance(entry, str)):
                expected = f"a token id (an integer from 0 to {MAX_TOKEN_ID})"
                expected += " or a string" if str in kinds else ""
                number = next((at for at, part in enumerate(value) if _is_id(part)), None)
                is_joined = str in kinds and number is not None
                why = f' (the number at "{where}[{number}]" makes the array one input)' if is_joined else ""
                raise InvalidRequest(f'"{where}[{index}]" must be {expected}, found {describe(entry)}{why}', param)
    parts = cast("tuple[int | str, ...]", tuple(value))
    ids = cast("list[int]", value if str not in kinds else [part for part in value if isinstance(part, int)])
    # min and max instead of a loop, because a request may have a hundred thousand ids
    if ids and not (min(ids) >= 0 and max(ids) <= MAX_TOKEN_ID):
        _refuse_token_id(parts, param, where)
    return parts


def _with_whole_numbers(value: list[object]) -> list[object]:
    """With 3 for 3.0: not every language writes it so."""
    return [part if (number := whole_number(part)) is None else number for part in value]


def _is_id(entry: object) -> bool:
    return type(entry) is int


def _refuse_token_id(parts: tuple[int | str, ...], param: str, where: str) -> None:
    for index, entry in enumerate(parts):
        if isinstance(entry, int) and not 0 <= entry <= MAX_TOKEN_ID:
            raise InvalidRequest(
                f'"{where}[{index}]" must be a token id from 0 to {MAX_TOKEN_ID}, found the number {entry}', param
            )


def parse_input(value: object, where: str, param: str) -> Input:
    """Parse one input. `where` names it in errors."""
    match value:
        case str():
            return value
        case list():
            return _parse_nested(value, where, param)
        case {"multimodal_data": data, **_rest} if data:
            raise NotSupported(
                f'"{where}" has multimodal_data, which this route does not support', [WayOut.EMBED_OPTIONS]
            )
        case {"prompt_string": str(text), **rest}:
            if rest.get("multimodal_data") not in (None, []):
                raise InvalidRequest(f'"{where}.multimodal_data" must be an array of images', param)
            return text
        case {"content": _}:
            raise NotSupported(
                f'"{where}" has content parts, which this route does not support', [WayOut.EMBED_OPTIONS]
            )
        case {"prompt_string": other}:
            raise InvalidRequest(f'"{where}.prompt_string" must be a string, found {describe(other)}', param)
        case _:
            raise InvalidRequest(f'"{where}" must be {_EXPECTED}, found {describe(value)}', param)


def _parse_nested(value: list[object], where: str, param: str) -> Input:
    if not value:
        raise InvalidRequest(f'"{where}" must not be empty: it must contain the token ids of one text', param)
    parts = parse_parts(value, param, where)
    if not any(isinstance(part, int) for part in parts):
        raise InvalidRequest(
            f'"{where}" must contain token ids, found an array of strings: put the texts directly into "{param}"', param
        )
    return parts
