"""Fields that ask for more than vectors, or for less than all: JSON → `Extras`, which go onto an `EmbedRequest`.

`return_tokens`, `spans`, `late_chunking` (Jina's), `long_input`, `on_error`, `offset_unit`.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NoReturn, cast

from gguf_embed.errors import EmbedError, InvalidRequest, NotSupported
from gguf_embed.offsets import OffsetUnit, code_point_at, unit_starts
from gguf_embed.server.errors import NoInputs, TooManyInputs
from gguf_embed.server.fields import JsonObject, describe, is_int, optional_bool, optional_choice
from gguf_embed.server.prompts import parse_prompt, parse_prompts
from gguf_embed.types import EmbedRequest, Prompt, Span

FIELDS = frozenset({"return_tokens", "spans", "late_chunking", "long_input", "on_error", "offset_unit"})
MAX_SPANS = 10_000
"""In one request: each is a vector in the reply."""

_PAIR = "a pair [start, end]"


@dataclass(frozen=True, slots=True)
class Extras:
    """What the fields ask for, with the inputs, which some of them change."""

    inputs: tuple[Prompt, ...]
    return_tokens: bool = False
    spans: tuple[tuple[Span, ...], ...] = ()  # in code points, of each input
    chunks_joined: bool = False  # the spans are the texts that the client sent as inputs
    long_input: Literal["error", "chunk_mean"] = "error"
    on_error: Literal["fail", "skip"] = "fail"
    refused: Mapping[int, EmbedError] = field(
        default_factory=dict
    )  # inputs that cannot be read, with "" in their place
    unit: OffsetUnit = OffsetUnit.CODEPOINTS  # of the spans and offsets in the reply

    def put_on(self, request: EmbedRequest) -> EmbedRequest:
        return replace(
            request,
            spans=self.spans,
            return_tokens=self.return_tokens,
            long_input=self.long_input,
            on_error=self.on_error,
            refused=self.refused,
        )


def parse_extras(body: JsonObject, param: str, max_inputs: int) -> Extras | None:
    """None where the body has none of the fields; else they and the inputs of field `param`.

    Raises `InvalidRequest` naming the field, for fields that contradict each other too.
    """
    if FIELDS.isdisjoint(body):
        return None
    on_error = cast(Literal["fail", "skip"], optional_choice(body, "on_error", ("fail", "skip")) or "fail")
    refused: dict[int, EmbedError] = {}
    inputs = (_parse_readable if on_error == "skip" else _parse_all)(body[param], param, max_inputs, refused)
    extras = Extras(
        inputs,
        return_tokens=optional_bool(body, "return_tokens") or False,
        long_input=cast(
            Literal["error", "chunk_mean"], optional_choice(body, "long_input", ("error", "chunk_mean")) or "error"
        ),
        on_error=on_error,
        refused=refused,
        unit=OffsetUnit(optional_choice(body, "offset_unit", tuple(OffsetUnit)) or OffsetUnit.CODEPOINTS),
    )
    if optional_bool(body, "late_chunking"):
        return _join_chunks(extras, body, param)
    if body.get("spans") is not None:
        return replace(extras, spans=_parse_spans(body["spans"], extras))
    return extras


def refuse_pictures() -> NoReturn:
    raise InvalidRequest(f"{', '.join(sorted(FIELDS))} are for texts, and this request has pictures: leave them out")


def _parse_all(value: object, param: str, max_inputs: int, refused: dict[int, EmbedError]) -> tuple[Prompt, ...]:
    return parse_prompts(value, param, max_inputs)


def _parse_readable(value: object, param: str, max_inputs: int, refused: dict[int, EmbedError]) -> tuple[Prompt, ...]:
    """Entries of an array that cannot be read go into `refused`; an array that is no list of inputs is an error."""
    try:
        return parse_prompts(value, param, max_inputs)
    except (NoInputs, TooManyInputs):
        raise
    except (InvalidRequest, NotSupported):
        if not isinstance(value, list) or any(is_int(entry) or isinstance(entry, float) for entry in value):
            raise
    inputs: list[Prompt] = []
    for index, entry in enumerate(value):
        try:
            inputs.append(parse_prompt(entry, f"{param}[{index}]", param))
        except (InvalidRequest, NotSupported) as error:
            refused[index] = error
            inputs.append("")
    return tuple(inputs)


def _join_chunks(extras: Extras, body: JsonObject, param: str) -> Extras:
    """The inputs as one text, nothing between them, and each one's place as a span: as Jina's API does it.

    A chunk without words is refused here, where it has its own number.
    """
    for name, is_there in (("spans", body.get("spans") is not None), ("on_error", extras.on_error == "skip")):
        if is_there:
            raise InvalidRequest(
                f'"late_chunking" makes one text of all inputs, "{name}" is about several texts or parts of one: '
                "send one of them",
                "late_chunking",
            )
    for index, chunk in enumerate(extras.inputs):
        if not isinstance(chunk, str):
            raise InvalidRequest(
                f'"late_chunking" joins texts, and "{param}[{index}]" is token ids: send text', "late_chunking"
            )
        if not chunk.strip():
            raise InvalidRequest(
                f'"{param}[{index}]" is a chunk without words, which has no vector: leave it out', param
            )
    chunks = cast("tuple[str, ...]", extras.inputs)
    borders = [0, *itertools.accumulate(map(len, chunks))]
    return replace(extras, inputs=("".join(chunks),), spans=(tuple(itertools.pairwise(borders)),), chunks_joined=True)


def _parse_spans(value: object, extras: Extras) -> tuple[tuple[Span, ...], ...]:
    """`[[0, 5], [5, 9]]` of a single input, or a list of such lists, one for each."""
    inputs, unit = extras.inputs, extras.unit
    if not isinstance(value, list):
        raise InvalidRequest(f'"spans" must be an array of pairs [start, end], found {describe(value)}', "spans")
    is_flat = len(inputs) == 1 and bool(value) and isinstance(value[0], list) and is_int(next(iter(value[0]), None))
    per_input: list[object] = [value] if is_flat else value
    if len(per_input) != len(inputs):
        raise InvalidRequest(
            f'"spans" has {len(per_input)} entries and there are {len(inputs)} inputs: send a list of pairs for each',
            "spans",
        )
    if sum(len(pairs) for pairs in per_input if isinstance(pairs, list)) > MAX_SPANS:
        raise InvalidRequest(
            f'"spans" has over {MAX_SPANS:,} pairs, the limit per request: send several requests', "spans"
        )
    return tuple(
        ((0, 1),)  # of an input that is not used
        if index in extras.refused
        else _parse_pairs(pairs, "spans" if is_flat else f"spans[{index}]", text, unit)
        for index, (pairs, text) in enumerate(zip(per_input, inputs, strict=True))
    )


def _parse_pairs(value: object, where: str, text: Prompt, unit: OffsetUnit) -> tuple[Span, ...]:
    if not isinstance(text, str):
        raise InvalidRequest(f'"{where}" are characters of a text, and this input is token ids: send text', "spans")
    if not isinstance(value, list) or not value:
        raise InvalidRequest(f'"{where}" must be an array of pairs [start, end], found {describe(value)}', "spans")
    starts = unit_starts(text, unit)
    return tuple(_parse_pair(pair, f"{where}[{index}]", starts, unit) for index, pair in enumerate(value))


def _parse_pair(value: object, where: str, starts: Sequence[int], unit: OffsetUnit) -> Span:
    match value:
        case [int(start), int(end)] if is_int(start) and is_int(end):
            pass
        case _:
            raise InvalidRequest(f'"{where}" must be {_PAIR} of integers, found {describe(value)}', "spans")
    if not 0 <= start < end <= starts[-1]:
        raise InvalidRequest(
            f'"{where}" is [{start}, {end}]: it must begin before it ends, within 0 and {starts[-1]}, the length of '
            f"the text in {unit}",
            "spans",
        )
    first, stop = code_point_at(starts, start), code_point_at(starts, end)
    if first is None or stop is None:
        raise InvalidRequest(f'"{where}" is [{start}, {end}], which cuts a character in two ({unit})', "spans")
    return first, stop
