"""From the engine's rows back to the inputs of a request that `asks_more`: spans, windows, tokens, single failures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gguf_embed.engines.base import Engine
from gguf_embed.errors import EmbedError, InvalidInput
from gguf_embed.scheduler.scheduler import Submission
from gguf_embed.service.reading import ReadText
from gguf_embed.texts.chunking import mean_over, span_rows, weighted_mean
from gguf_embed.types import (
    EmbedRequest,
    FloatMatrix,
    InputFailure,
    ReadTokens,
    Span,
    TokenizedText,
    WindowedText,
)
from gguf_embed.vectors import finish


@dataclass(frozen=True, slots=True)
class ReadRequest:
    """A request whose texts are read. Input i is text `place[i]`: equal inputs are read once."""

    request: EmbedRequest
    place: Sequence[int]
    texts: Sequence[ReadText | EmbedError]
    engine: Engine
    embd_normalize: int  # what is done to each vector

    @property
    def readable(self) -> list[ReadText]:
        return [text for text in self.texts if isinstance(text, ReadText)]

    @property
    def sequences(self) -> list[Sequence[int]]:
        """What the engine runs."""
        return [tokens for text in self.readable for tokens in text.sequences]


@dataclass(frozen=True, slots=True)
class Gathered:
    """What became of each input. One that failed has no tokens and no rows."""

    texts: Sequence[TokenizedText]
    rows: Sequence[FloatMatrix]  # float32[n_rows_i, n_dims], not normalised yet
    tokens: tuple[ReadTokens | None, ...]  # empty when not asked for
    windowed: tuple[WindowedText, ...]
    failures: tuple[InputFailure, ...]


def gather(read: ReadRequest, submission: Submission) -> Gathered:
    """Raises the first input's error unless the request wants to have it told. Any thread."""
    outcomes = _rows_of_texts(read.texts, submission)
    rows: list[FloatMatrix | None] = []
    texts: list[ReadText | None] = []
    failures: list[InputFailure] = []
    for index, place in enumerate(read.place):
        found: FloatMatrix | EmbedError
        found = read.request.refused.get(index) or _vectors(read, index, outcomes[place])
        text = read.texts[place]
        if isinstance(found, EmbedError):
            if read.request.on_error == "fail":
                raise found
            failures.append(InputFailure(index, found))
        rows.append(None if isinstance(found, EmbedError) else found)
        texts.append(None if isinstance(found, EmbedError) or isinstance(text, EmbedError) else text)
    width = max((matrix.shape[1] for matrix in rows if matrix is not None), default=0)
    return Gathered(
        texts=[TokenizedText(text.tokens, text.n_tokens) if text else TokenizedText((), 0) for text in texts],
        rows=[np.empty((0, width), np.float32) if matrix is None else matrix for matrix in rows],
        tokens=_read_tokens(texts, read.engine) if read.request.return_tokens else (),
        windowed=tuple(
            WindowedText(index, text.n_tokens, len(text.windows))
            for index, text in enumerate(texts)
            if text and text.windows
        ),
        failures=tuple(failures),
    )


def _rows_of_texts(
    texts: Sequence[ReadText | EmbedError], submission: Submission
) -> list[Sequence[FloatMatrix] | EmbedError]:
    """The engine's rows of each text, a matrix per window; or what failed, in reading or in the engine."""
    outcomes: list[Sequence[FloatMatrix] | EmbedError] = []
    begin = 0
    for text in texts:
        if isinstance(text, EmbedError):
            outcomes.append(text)
            continue
        end = begin + max(1, len(text.windows))
        failed = next((index for index in range(begin, end) if index in submission.failures), None)
        outcomes.append(submission.rows[begin:end] if failed is None else submission.failures[failed])
        begin = end
    return outcomes


def _vectors(read: ReadRequest, index: int, outcome: Sequence[FloatMatrix] | EmbedError) -> FloatMatrix | EmbedError:
    """The rows of input `index` in the reply."""
    request, text = read.request, read.texts[read.place[index]]
    if isinstance(outcome, EmbedError) or isinstance(text, EmbedError):
        assert isinstance(outcome, EmbedError), index
        return outcome.of_input(index)
    if text.windows:
        return _averaged(outcome, text, read.embd_normalize, request.dimensions)
    rows = outcome[0][:, : request.dimensions]
    if not request.spans:
        return rows
    ranges = _place_spans(index, text, request.spans[index])
    return ranges if isinstance(ranges, EmbedError) else mean_over(rows, ranges)


def _place_spans(index: int, text: ReadText, spans: Sequence[Span]) -> list[range] | EmbedError:
    """The token rows of each span of input `index`, or what is wrong with a span that has none."""
    rows = span_rows(text.offsets, spans, text.n_characters)
    for number, (span, found) in enumerate(zip(spans, rows, strict=True)):
        if found is None:
            is_cut = len(text.tokens) < text.n_tokens
            why = "truncation cut all of its tokens off" if is_cut else "no token lies in it"
            return InvalidInput(
                index,
                f", span {number} (characters {span[0]} to {span[1]}): {why}, so it has no vector: leave it out",
                "spans",
            )
    return [found for found in rows if found is not None]


def _averaged(rows: Sequence[FloatMatrix], text: ReadText, kind: int, n_dims: int | None) -> FloatMatrix:
    """float32[1, d]: each window's vector finished as a text's own, and their mean by the number of their tokens.

    That is what a client gets that sends the parts and averages their vectors (the recipe of OpenAI's cookbook).
    """
    return weighted_mean(finish(np.concatenate(rows), kind, n_dims), [window.n_own for window in text.windows])


def _read_tokens(texts: Sequence[ReadText | None], engine: Engine) -> tuple[ReadTokens | None, ...]:
    ids = {token for text in texts if text for token in text.tokens}
    pieces = {token: engine.token_bytes(token) for token in ids}
    return tuple(
        ReadTokens(text.tokens, [pieces[token] for token in text.tokens], text.offsets) if text else None
        for text in texts
    )
