"""Formats what `EmbedOptions` asked for: as lists next to `data` in OpenAI's shape, inside the items in llama.cpp's.

Offsets are converted from code points to the request's unit. Do not call this on the event loop: a request may ask for
the offsets of a million tokens. Long values are serialized separately, because orjson holds the GIL for a whole call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import orjson
from aiohttp import web

from gguf_embed.errors import EmbedError
from gguf_embed.server.fields.options import EmbedOptions
from gguf_embed.server.fields.pieces import format_piece
from gguf_embed.server.http.body import format_indices
from gguf_embed.tokenization.offsets import OffsetUnit, unit_starts
from gguf_embed.types import EmbedResult, Input, Span, WindowedText

WINDOWED_HEADER = "X-Gguf-Embed-Windowed"
FAILED_HEADER = "X-Gguf-Embed-Failed"

DescribeError = Callable[[EmbedError], dict[str, object]]
"""Formats the error of one input as the dialect's error object."""


def openai_data(
    result: EmbedResult, vectors: Iterable[Mapping[str, object]], options: EmbedOptions
) -> list[dict[str, object]]:
    """The items of `data`, from the vectors of each by name.

    `index` counts the inputs; with spans, it counts the vectors of the reply.
    """
    labels = _labels(options, {failure.index for failure in result.failures})
    return [
        {"object": "embedding", **{name: _dump(vector) for name, vector in written.items()}, **label}
        for label, written in zip(labels, vectors, strict=True)
    ]


def _labels(options: EmbedOptions, failed: set[int]) -> list[dict[str, object]]:
    """The other fields of each item of the reply."""
    if not options.spans:
        return [{"index": index} for index in range(len(options.inputs)) if index not in failed]
    if options.chunks_joined:
        return [{"index": index} for index in range(len(options.spans[0]))]
    by_input = enumerate(_written_spans(options))
    spans = [(number, span) for number, own in by_input if number not in failed for span in own]
    return [{"index": index, "input": number, "span": span} for index, (number, span) in enumerate(spans)]


def openai_details(result: EmbedResult, options: EmbedOptions, describe: DescribeError) -> dict[str, object]:
    """The lists next to `data`, each only if it applies. `errors` is always present with on_error "skip"."""
    details: dict[str, object] = {}
    if options.return_tokens:
        written = _written_tokens(result, options)
        details["tokens"] = [{"index": index, **tokens} for index, tokens in enumerate(written) if tokens]
    if result.windowed:
        details["windowed"] = [{"index": text.index, **_written_windows(text)} for text in result.windowed]
    if options.on_error == "skip":
        details["errors"] = [{"index": failure.index, **describe(failure.error)} for failure in result.failures]
    return details


def llama_details(result: EmbedResult, options: EmbedOptions, describe: DescribeError) -> list[dict[str, object]]:
    """The additional fields of each input's item. A failed input has `error` and no rows."""
    spans = _written_spans(options) if options.spans else ()
    tokens = _written_tokens(result, options)
    details: list[dict[str, object]] = [{} for _ in options.inputs]
    for index, detail in enumerate(details):
        if spans:
            detail["spans"] = spans[index]
        if tokens and tokens[index]:
            detail["tokens"] = tokens[index]
    for text in result.windowed:
        details[text.index]["windowed"] = _written_windows(text)
    for failure in result.failures:
        details[failure.index] = {"error": describe(failure.error)}
    return details


def with_option_headers(response: web.Response, result: EmbedResult) -> web.Response:
    """Add headers with the indexes of inputs that were split into windows or failed."""
    if result.windowed:
        response.headers[WINDOWED_HEADER] = format_indices([text.index for text in result.windowed])
    if result.failures:
        response.headers[FAILED_HEADER] = format_indices([failure.index for failure in result.failures])
    return response


def _written_windows(text: WindowedText) -> dict[str, object]:
    return {"n_tokens": text.n_tokens, "n_windows": text.n_windows}


def _written_tokens(result: EmbedResult, options: EmbedOptions) -> list[dict[str, object]]:
    """The tokens of each input as three arrays of equal length, which equal inputs share; {} if the input failed.

    A piece that is not valid UTF-8 is an array of its bytes, as in `/tokenize`.
    """
    known: dict[int, dict[str, object]] = {id(None): {}}
    for tokens, text in zip(result.tokens, options.inputs, strict=bool(result.tokens)):
        if tokens is not None and id(tokens) not in known:
            known[id(tokens)] = {
                "ids": _dump(tokens.ids),
                "pieces": _dump([format_piece(piece) for piece in tokens.pieces]),
                "offsets": _dump(_written_offsets(tokens.offsets, text, options.unit)),
            }
    return [known[id(tokens)] for tokens in result.tokens]


def _dump(value: object) -> orjson.Fragment:
    return orjson.Fragment(orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY))


def _written_offsets(offsets: Sequence[Span | None], text: Input, unit: OffsetUnit) -> Sequence[Span | None]:
    """The offsets in the request's unit. All None for an input that is not a text."""
    if not isinstance(text, str):
        return [None] * len(offsets)
    if unit is OffsetUnit.CODEPOINTS:
        return offsets
    starts = unit_starts(text, unit)
    return [span and (starts[span[0]], starts[span[1]]) for span in offsets]


def _written_spans(options: EmbedOptions) -> Sequence[Sequence[Span | None]]:
    return [
        _written_offsets(spans, text, options.unit) for spans, text in zip(options.spans, options.inputs, strict=True)
    ]
