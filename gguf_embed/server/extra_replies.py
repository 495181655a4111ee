"""What `Extras` asked for, in the two shapes of a reply: OpenAI's, with lists beside `data`, and llama.cpp's, in items.

A code point's number becomes the unit that the request counts in.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from aiohttp import web

from gguf_embed.offsets import OffsetUnit, unit_starts
from gguf_embed.server.body import format_indices
from gguf_embed.server.door import Dialect
from gguf_embed.server.errors import describe_error
from gguf_embed.server.request_options import Extras
from gguf_embed.types import EmbedResult, Prompt, ReadTokens, Span, WindowedText

WINDOWED_HEADER = "X-Gguf-Embed-Windowed"
FAILED_HEADER = "X-Gguf-Embed-Failed"


def openai_data(result: EmbedResult, rows: Iterable[object], extras: Extras) -> list[dict[str, object]]:
    """The items of `data`: `index` counts all vectors that were asked for, so those of failed inputs are missing."""
    failed = {failure.index for failure in result.failures}
    kept = (label for number, label in _labels(extras) if number not in failed)
    return [{"object": "embedding", "embedding": row, **label} for label, row in zip(kept, rows, strict=True)]


def _labels(extras: Extras) -> list[tuple[int, dict[str, object]]]:
    """Of each vector asked for: its input, and what stands beside it."""
    if not extras.spans:
        return [(index, {"index": index}) for index in range(len(extras.inputs))]
    if extras.chunks_joined:
        return [(0, {"index": index}) for index in range(len(extras.spans[0]))]
    spans = [(number, span) for number, own in enumerate(_written_spans(extras)) for span in own]
    return [(number, {"index": index, "input": number, "span": span}) for index, (number, span) in enumerate(spans)]


def openai_details(result: EmbedResult, extras: Extras) -> dict[str, object]:
    """The lists beside `data`, each only where there is something to tell, `errors` whenever skipping was asked for."""
    details: dict[str, object] = {}
    if extras.return_tokens:
        details["tokens"] = [
            {"index": index, **_written_tokens(tokens, text, extras)}
            for index, (tokens, text) in enumerate(zip(result.tokens, extras.inputs, strict=True))
            if tokens is not None
        ]
    if result.windowed:
        details["windowed"] = [{"index": text.index, **_written_windows(text)} for text in result.windowed]
    if extras.on_error == "skip":
        details["errors"] = [
            {"index": failure.index, **describe_error(failure.error, Dialect.OPENAI)} for failure in result.failures
        ]
    return details


def native_details(result: EmbedResult, extras: Extras) -> list[dict[str, object]]:
    """What stands in each input's item beside its rows; one that failed has `error` and no rows."""
    spans = _written_spans(extras) if extras.spans else ()
    details: list[dict[str, object]] = [{} for _ in extras.inputs]
    for index, detail in enumerate(details):
        if spans:
            detail["spans"] = spans[index]
        if result.tokens and (tokens := result.tokens[index]) is not None:
            detail["tokens"] = _written_tokens(tokens, extras.inputs[index], extras)
    for text in result.windowed:
        details[text.index]["windowed"] = _written_windows(text)
    for failure in result.failures:
        details[failure.index] = {"error": describe_error(failure.error, Dialect.LLAMA)}
    return details


def with_extra_headers(response: web.Response, result: EmbedResult) -> web.Response:
    """Say which inputs were read in windows, and which failed, as `X-Gguf-Embed-Truncated` does for those cut."""
    if result.windowed:
        response.headers[WINDOWED_HEADER] = format_indices([text.index for text in result.windowed])
    if result.failures:
        response.headers[FAILED_HEADER] = format_indices([failure.index for failure in result.failures])
    return response


def _written_windows(text: WindowedText) -> dict[str, object]:
    return {"n_tokens": text.n_tokens, "n_windows": text.n_windows}


def _written_tokens(tokens: ReadTokens, text: Prompt, extras: Extras) -> dict[str, object]:
    """Three arrays of equal length; a piece that is no whole UTF-8 is an array of its bytes, as in `/tokenize`."""
    return {
        "ids": tokens.ids,
        "pieces": [_written_piece(piece) for piece in tokens.pieces],
        "offsets": _written_offsets(tokens.offsets, text, extras.unit),
    }


def _written_piece(piece: bytes) -> object:
    try:
        return piece.decode("utf-8")
    except UnicodeDecodeError:
        return list(piece)


def _written_offsets(offsets: Sequence[Span | None], text: Prompt, unit: OffsetUnit) -> Sequence[Span | None]:
    """None for all tokens of an input that was not sent as text."""
    if not isinstance(text, str):
        return [None] * len(offsets)
    if unit is OffsetUnit.CODEPOINTS:
        return offsets
    starts = unit_starts(text, unit)
    return [span and (starts[span[0]], starts[span[1]]) for span in offsets]


def _written_spans(extras: Extras) -> Sequence[Sequence[Span | None]]:
    return [_written_offsets(spans, text, extras.unit) for spans, text in zip(extras.spans, extras.inputs, strict=True)]
