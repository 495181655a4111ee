"""From the engine's rows back to the inputs of a request that `asks_more`: spans, windows, tokens, single failures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from gguf_embed.engines.base import Engine
from gguf_embed.errors import EmbedError, InvalidInput
from gguf_embed.preprocessing.windows import mean_over, span_rows, weighted_mean
from gguf_embed.scheduler.scheduler import Submission
from gguf_embed.service.embed_plan import TokenizedInput
from gguf_embed.types import (
    EmbedRequest,
    FloatMatrix,
    InputFailure,
    Pooling,
    Span,
    TokenInfo,
    TokenizedText,
    WindowedText,
)
from gguf_embed.vectors import finish


@dataclass(frozen=True, slots=True)
class EmbedPlan:
    """A request whose texts are read. Input i is text `place[i]`: equal inputs are read once."""

    request: EmbedRequest
    place: Sequence[int]
    texts: Sequence[TokenizedInput | EmbedError]
    engine: Engine
    pooling: Pooling  # of the reply's rows
    embd_normalize: int  # what is done to each vector

    @property
    def readable(self) -> list[TokenizedInput]:
        return [text for text in self.texts if isinstance(text, TokenizedInput)]

    @property
    def n_held_rows(self) -> int:
        """Token rows that are held until the reply is written: those of the texts and of the spans, or the reply's."""
        if self.request.spans:
            return sum(len(text.tokens) for text in self.readable) + sum(map(len, self.request.spans))
        return sum(
            len(text.tokens) for text in map(self.texts.__getitem__, self.place) if isinstance(text, TokenizedInput)
        )

    @property
    def sequences(self) -> list[Sequence[int]]:
        """What the engine runs."""
        return [tokens for text in self.readable for tokens in text.sequences]


@dataclass(frozen=True, slots=True)
class AssembledRows:
    """What became of each input. One that failed has no tokens and no rows."""

    texts: Sequence[TokenizedText]
    rows: Sequence[FloatMatrix]  # float32[n_rows_i, n_dims], not normalized yet
    tokens: tuple[TokenInfo | None, ...]  # empty when not asked for
    windowed: tuple[WindowedText, ...]
    failures: tuple[InputFailure, ...]


def assemble(read: EmbedPlan, submission: Submission) -> AssembledRows:
    """Raises the first input's error unless the request wants to have it told. Any thread."""
    outcomes = _rows_of_texts(read.texts, submission)
    rows: list[FloatMatrix | None] = []
    texts: list[TokenizedInput | None] = []
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
    return AssembledRows(
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
    texts: Sequence[TokenizedInput | EmbedError], submission: Submission
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


def _vectors(read: EmbedPlan, index: int, outcome: Sequence[FloatMatrix] | EmbedError) -> FloatMatrix | EmbedError:
    """The rows of input `index` in the reply."""
    request, text = read.request, read.texts[read.place[index]]
    if isinstance(outcome, EmbedError) or isinstance(text, EmbedError):
        assert isinstance(outcome, EmbedError), index
        return outcome.for_input(index)
    if text.windows:
        mean = _averaged(outcome, text, read.embd_normalize, request.dimensions)
        return mean if mean.any() else _without_vector(index, ": the vectors of its windows")
    rows = outcome[0][:, : request.dimensions]
    if not request.spans:
        is_empty = read.pooling not in (Pooling.NONE, Pooling.RANK) and not rows.any()
        return no_direction(index, rows.shape[1]) if is_empty else rows
    ranges = _place_spans(index, text, request.spans[index], are_inputs=request.spans_are_inputs)
    return ranges if isinstance(ranges, EmbedError) else _span_means(index, rows, ranges, request.spans[index])


def _span_means(
    index: int, rows: FloatMatrix, ranges: Sequence[range], spans: Sequence[Span]
) -> FloatMatrix | EmbedError:
    means = mean_over(rows, ranges)
    empty = np.flatnonzero(~means.any(axis=1))
    if not len(empty):
        return means
    start, end = spans[empty[0]]
    return _without_vector(index, f", span {empty[0]} (characters {start} to {end}): the rows of its tokens", "spans")


def no_direction(index: int, n_dims: int) -> InvalidInput:
    """For a vector of which the dimensions that were asked for hold nothing: static models have such."""
    return InvalidInput(index, f": the first {n_dims} numbers of its vector are all zero: ask for more dimensions")


def _without_vector(index: int, what: str, param: str = "input") -> InvalidInput:
    return InvalidInput(index, f"{what} add up to zero, so it has no vector: leave it out, or add other words", param)


def _place_spans(
    index: int, text: TokenizedInput, spans: Sequence[Span], *, are_inputs: bool
) -> list[range] | EmbedError:
    """The token rows of each span of input `index`, or what is wrong with a span that has none."""
    rows = span_rows(text.offsets, spans, text.n_characters)
    for number, (span, found) in enumerate(zip(spans, rows, strict=True)):
        if found is None:
            is_cut = len(text.tokens) < text.n_tokens
            why = "truncation cut all of its tokens off" if is_cut else "no token lies in it"
            if are_inputs:
                return InvalidInput(number, f" is a chunk of one text: {why}, so it has no vector: leave it out")
            return InvalidInput(
                index,
                f", span {number} (characters {span[0]} to {span[1]}): {why}, so it has no vector: leave it out",
                "spans",
            )
    return [found for found in rows if found is not None]


def _averaged(rows: Sequence[FloatMatrix], text: TokenizedInput, kind: int, n_dims: int | None) -> FloatMatrix:
    """float32[1, d]: each window's vector finished as a text's own, and their mean by the number of their tokens.

    That is what a client gets that sends the parts and averages their vectors (the recipe of OpenAI's cookbook).
    """
    return weighted_mean(finish(np.concatenate(rows), kind, n_dims), [window.n_own for window in text.windows])


def pieces_of(engine: Engine, tokens: Sequence[int]) -> list[bytes]:
    """The text of each token. The engine is asked about each once. Raises `InvalidRequest` for an unknown id."""
    known = {token: engine.token_bytes(token) for token in dict.fromkeys(tokens)}
    return [known[token] for token in tokens]


def _read_tokens(texts: Sequence[TokenizedInput | None], engine: Engine) -> tuple[TokenInfo | None, ...]:
    """Equal inputs share one object, so that it is written once."""
    distinct = {id(text): text for text in texts if text}
    pieces = iter(pieces_of(engine, [token for text in distinct.values() for token in text.tokens]))
    read = {
        key: TokenInfo(text.tokens, list(islice(pieces, len(text.tokens))), text.offsets)
        for key, text in distinct.items()
    }
    return tuple(read[id(text)] if text else None for text in texts)
