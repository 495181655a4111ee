"""The embed options: JSON → `EmbedOptions`, which are then applied to an `EmbedRequest`.

The fields are `return_tokens`, `spans`, `late_chunking` (Jina's), `long_input`, `on_error` and `offset_unit`.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, cast

from gguf_embed.errors import EmbedError, InvalidInput, InvalidRequest, NotSupported, WayOut
from gguf_embed.preprocessing.token_offsets import check_offset_budget
from gguf_embed.server.fields.aliases import refuse_unsupported
from gguf_embed.server.fields.inputs import MixedInputs, parse_entry, parse_inputs
from gguf_embed.server.fields.option_fields import (
    LATE_CHUNKING,
    LONG_INPUT,
    OFFSET_UNIT,
    ON_ERROR,
    OPTION_FIELDS,
    RETURN_TOKENS,
)
from gguf_embed.server.http.errors import NoInputs, TooManyInputs
from gguf_embed.server.http.values import JsonObject, describe, whole_number
from gguf_embed.tokenization.offsets import OffsetUnit, code_point_at, unit_starts
from gguf_embed.types import EmbedRequest, Input, Span

_OPTION_DEFAULTS = ("error", "fail")  # of long_input and on_error
_DEFAULTS = (*_OPTION_DEFAULTS, "float")  # values that ask for nothing but the default
MAX_SPANS = 10_000
"""Limit per request, because each is a vector in the reply."""

FIELDS = frozenset(field.name for field in OPTION_FIELDS.fields)
_OPTION_FIELDS = tuple(field.name for field in OPTION_FIELDS.fields if field is not OFFSET_UNIT)

_PAIR = "a pair [start, end]"
_NO_SPANS: tuple[Span, ...] = ((0, 0),)  # for an input that is not read


@dataclass(frozen=True, slots=True)
class EmbedOptions:
    """The parsed fields, with the inputs, which some of them change."""

    inputs: tuple[Input, ...]
    return_tokens: bool = False
    spans: tuple[tuple[Span, ...], ...] = ()  # in code points, per input
    chunks_joined: bool = False  # `inputs` is one text joined from the client's inputs, and the spans are those inputs
    long_input: Literal["error", "chunk_mean"] = "error"
    on_error: Literal["fail", "skip"] = "fail"
    refused: Mapping[int, EmbedError] = field(default_factory=dict)  # inputs that cannot be parsed; "" in `inputs`
    unit: OffsetUnit = OffsetUnit.CODEPOINTS  # of the spans and offsets in the reply

    def apply_to(self, request: EmbedRequest) -> EmbedRequest:
        return replace(
            request,
            spans=self.spans,
            spans_are_inputs=self.chunks_joined,
            return_tokens=self.return_tokens,
            long_input=self.long_input,
            on_error=self.on_error,
            refused=self.refused,
        )


def parse_options(body: JsonObject, param: str, max_inputs: int) -> EmbedOptions:
    """Parse the options, and the inputs in the field `param`. For a body that has at least one of `FIELDS`.

    Raises `InvalidRequest` naming the field, also for fields that conflict.
    """
    on_error = cast(Literal["fail", "skip"], ON_ERROR.read(body) or "fail")
    refused: dict[int, EmbedError] = {}
    if on_error == "skip":
        inputs = _parse_readable(body[param], param, max_inputs, refused)
    else:
        joins_mixed = not any(_asks(body.get(name)) for name in _OPTION_FIELDS)
        inputs = parse_inputs(body[param], param, max_inputs, joins_mixed=joins_mixed)
    options = EmbedOptions(
        inputs,
        return_tokens=RETURN_TOKENS.read(body) or False,
        long_input=cast(Literal["error", "chunk_mean"], LONG_INPUT.read(body) or "error"),
        on_error=on_error,
        refused=refused,
        unit=OffsetUnit(OFFSET_UNIT.read(body) or OffsetUnit.CODEPOINTS),
    )
    if options.return_tokens or body.get("late_chunking") or body.get("spans"):
        check_offset_budget(inputs)
    if LATE_CHUNKING.read(body):
        return _join_chunks(options, body, param)
    if body.get("spans") is not None:
        return _with_spans(options, body["spans"])
    return options


def refuse_elsewhere(body: JsonObject, fields: Iterable[str] = (), taken: Collection[str] = ()) -> None:
    """Refuse the options, `fields`, and what other routes have, on a route without them, instead of ignoring them.

    `taken` are names of the latter that the route has, too.
    """
    refuse_unsupported(body, taken)
    for name in (*_OPTION_FIELDS, *fields):
        if name in body and _asks(body[name]):
            raise InvalidRequest(
                f'"{name}" is not supported on this route', name, ways_out=[WayOut.LEAVE_OUT, WayOut.EMBED_OPTIONS]
            )


def _asks(value: object, defaults: Sequence[str] = _DEFAULTS) -> bool:
    """Whether a field's value asks for anything but the default."""
    return not (value is None or value is False or (isinstance(value, str) and value.lower() in defaults))


def refuse_with_images(body: JsonObject) -> None:
    """Raises `NotSupported` for the first option that is only for texts. Call it before the inputs are parsed, because
    an input with images is "" by then."""
    for name in sorted(_OPTION_FIELDS):
        if _asks(body.get(name), _OPTION_DEFAULTS):
            raise NotSupported(f'"{name}" is only for texts, and this request has images: leave it out, or send texts')


def _parse_readable(value: object, param: str, max_inputs: int, refused: dict[int, EmbedError]) -> tuple[Input, ...]:
    """Parse all inputs; put the errors of array entries into `refused`. Raises if the value is not a list of inputs."""
    try:
        return parse_inputs(value, param, max_inputs, joins_mixed=False)
    except (NoInputs, TooManyInputs, MixedInputs):
        raise
    except (InvalidRequest, NotSupported):
        if not isinstance(value, list) or set(map(type, value)) <= {int, float}:
            raise
    inputs: list[Input] = []
    for index, entry in enumerate(value):
        try:
            inputs.append(parse_entry(entry, param, index))
        except (InvalidRequest, NotSupported) as error:
            refused[index] = error
            inputs.append("")
    return tuple(inputs)


def _join_chunks(options: EmbedOptions, body: JsonObject, param: str) -> EmbedOptions:
    """Join the inputs into one text without separators, with one span per input, as Jina's API does.

    A chunk without words is refused here, where its own index is known.
    """
    for name, is_there in (("spans", body.get("spans") is not None), ("on_error", options.on_error == "skip")):
        if is_there:
            raise InvalidRequest(
                f'"late_chunking" joins all inputs into one text, so "{name}" cannot be used with it: send only one of '
                "them",
                "late_chunking",
            )
    for index, chunk in enumerate(options.inputs):
        if not isinstance(chunk, str):
            raise InvalidRequest(
                f'"late_chunking" joins texts, and "{param}[{index}]" is an array of token ids: send text',
                "late_chunking",
                index,
            )
        if not chunk.strip():
            raise InvalidRequest(
                f'"{param}[{index}]" is a chunk without words, which has no vector: leave it out', param, index
            )
    chunks = cast("tuple[str, ...]", options.inputs)
    borders = [0, *itertools.accumulate(map(len, chunks))]
    return replace(options, inputs=("".join(chunks),), spans=(tuple(itertools.pairwise(borders)),), chunks_joined=True)


def _with_spans(options: EmbedOptions, value: object) -> EmbedOptions:
    """Parse spans: `[[0, 5], [5, 9]]` for a single input, or a list of such lists, one per input.

    With on_error "skip", invalid spans only fail their own input.
    """
    inputs, refused = list(options.inputs), dict(options.refused)
    spans: list[tuple[Span, ...]] = []
    for index, (where, pairs) in enumerate(_spans_by_input(value, options)):
        try:
            spans.append(_NO_SPANS if index in refused else _parse_pairs(pairs, where, index, options))
        except InvalidInput as error:
            if options.on_error == "fail":
                raise
            refused[index], inputs[index] = error, ""
            spans.append(_NO_SPANS)
    return replace(options, inputs=tuple(inputs), refused=refused, spans=tuple(spans))


def _spans_by_input(value: object, options: EmbedOptions) -> list[tuple[str, object]]:
    """For each input, the name of its part of the field, and that part."""
    n_inputs = len(options.inputs)
    if not isinstance(value, list):
        raise InvalidRequest(f'"spans" must be an array of pairs [start, end], found {describe(value)}', "spans")
    first = value[0] if value else None
    if isinstance(first, int | float):
        whole = f"[[{value[0]}, {value[1]}]]" if n_inputs == 1 and len(value) == 2 else "[[0, 3]]"
        raise InvalidRequest(
            f'"spans" must be an array of pairs [start, end], found an array of numbers: write {whole}', "spans"
        )
    is_flat = n_inputs == 1 and (not value or (isinstance(first, list) and _begins_with_a_number(first)))
    per_input: list[tuple[str, object]]
    per_input = [("spans", value)] if is_flat else [(f"spans[{index}]", part) for index, part in enumerate(value)]
    if len(per_input) != n_inputs:
        raise InvalidRequest(
            f'"spans" has {len(per_input)} entries for {n_inputs} inputs: send one list of pairs per input',
            "spans",
        )
    if sum(len(pairs) for _, pairs in per_input if isinstance(pairs, list)) > MAX_SPANS:
        raise InvalidRequest(
            f'"spans" has over {MAX_SPANS:,} pairs, which is the limit per request: send several requests', "spans"
        )
    return per_input


def _begins_with_a_number(pair: list[object]) -> bool:
    return bool(pair) and isinstance(pair[0], int | float)


def _parse_pairs(value: object, where: str, index: int, options: EmbedOptions) -> tuple[Span, ...]:
    """Raises `InvalidRequest` for values that are not pairs, and `InvalidInput` for spans that are not in the text."""
    text, unit = options.inputs[index], options.unit
    if not isinstance(text, str):
        raise InvalidInput(
            index, f' is an array of token ids, and "{where}" counts the characters of a text: send text', "spans"
        )
    starts = unit_starts(text, unit)
    if not isinstance(value, list) or not value:
        whole = f": [[0, {starts[-1]}]] is the whole text" if value == [] else ""
        raise InvalidRequest(
            f'"{where}" must be an array of pairs [start, end], found {describe(value)}{whole}', "spans"
        )
    pairs = [_parse_pair(pair, f"{where}[{number}]") for number, pair in enumerate(value)]
    return tuple(
        _to_code_points(pair, f': "{where}[{number}]"', index, starts, unit) for number, pair in enumerate(pairs)
    )


def _parse_pair(value: object, where: str) -> Span:
    match value:
        case [first, last]:
            start, end = whole_number(first), whole_number(last)
            if start is not None and end is not None:
                return start, end
            wrong = first if start is None else last
            raise InvalidRequest(f'"{where}" must be {_PAIR} of integers, found {describe(wrong)}', "spans")
        case _:
            raise InvalidRequest(f'"{where}" must be {_PAIR} of integers, found {describe(value)}', "spans")


def _to_code_points(pair: Span, where: str, index: int, starts: Sequence[int], unit: OffsetUnit) -> Span:
    """The pair in code points."""
    start, end = pair
    if not 0 <= start < end <= starts[-1]:
        raise InvalidInput(
            index,
            f"{where} is [{start}, {end}], but it must begin before it ends and lie between 0 and {starts[-1]}, the "
            f"length of the text in {unit}",
            "spans",
        )
    first, stop = code_point_at(starts, start), code_point_at(starts, end)
    if first is None or stop is None:
        raise InvalidInput(index, f"{where} is [{start}, {end}], which splits a character ({unit})", "spans")
    return first, stop
