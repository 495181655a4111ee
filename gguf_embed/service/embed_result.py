"""Turns the engine's output into a request's result: vectors, spans, windows, tokens, failures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import cast

import numpy as np

from gguf_embed.engines.base import TextCodec
from gguf_embed.errors import EmbedError, InvalidInput
from gguf_embed.preprocessing.tokens import TokenizedText
from gguf_embed.preprocessing.windows import mean_over, span_rows, weighted_mean
from gguf_embed.scheduler.scheduler import Submission
from gguf_embed.service.embed_plan import EmbedPlan
from gguf_embed.service.head_outputs import with_fewer_rows, with_one_vector
from gguf_embed.service.pipeline import Computed
from gguf_embed.types import (
    DENSE,
    EmbedResult,
    FloatMatrix,
    InputFailure,
    Output,
    Span,
    TokenInfo,
    Truncation,
    Usage,
    WindowedText,
)
from gguf_embed.vectors import Rows, finish
from gguf_embed.vectors.joint import none_of


def assemble(plan: EmbedPlan, computed: Computed) -> EmbedResult:
    """Assemble the result. Raises the first error unless the request skips failed inputs. Any thread."""
    request, texts = plan.request, computed.texts
    outcomes = _outcomes(texts, computed.submission)
    outputs: list[Output | None] = []
    kept: list[TokenizedText | None] = []  # None: the input failed
    failures: list[InputFailure] = []
    truncated: list[Truncation] = []
    n_read = 0
    for index, at in enumerate(plan.index_of):
        text, outcome = texts[at], outcomes[at]
        found = request.refused.get(index) or _output_of(plan, index, text, outcome)
        if isinstance(found, EmbedError):
            if request.on_error == "fail":
                raise found
            failures.append(InputFailure(index, found))
            outputs.append(None)
            kept.append(None)
            continue
        assert isinstance(text, TokenizedText), index
        assert not isinstance(outcome, EmbedError), index
        outputs.append(found)
        kept.append(text)
        n_read += outcome.n_tokens
        if len(text.tokens) < text.n_tokens:
            truncated.append(Truncation(index, text.n_tokens, len(text.tokens)))
    return EmbedResult(
        model=plan.served.info,
        output=_finished(plan, outputs),
        usage=Usage(n_read),
        truncated=tuple(truncated),
        timings=computed.timings,
        prompt=plan.prompt,
        tokens=_token_infos(kept, plan.served.model.codec) if request.return_tokens else (),
        windowed=_windowed(kept) if request.long_input != "error" else (),
        failures=tuple(failures),
    )


@dataclass(frozen=True, slots=True)
class _EngineOutput:
    """What the engine returned for a text."""

    outputs: Sequence[Output]  # one per window
    n_tokens: int  # tokens it read


def _outcomes(texts: Sequence[TokenizedText | EmbedError], submission: Submission) -> list[_EngineOutput | EmbedError]:
    """For each text, the engine's output or the error."""
    outcomes: list[_EngineOutput | EmbedError] = []
    begin = 0
    for text in texts:
        if isinstance(text, EmbedError):
            outcomes.append(text)
            continue
        end = begin + (len(text.windows) or 1)
        outputs = submission.outputs[begin:end]
        if None in outputs:
            failed = next(index for index in range(begin, end) if index in submission.failures)
            outcomes.append(submission.failures[failed])
        else:
            outcomes.append(_EngineOutput(cast("Sequence[Output]", outputs), sum(submission.n_tokens[begin:end])))
        begin = end
    return outcomes


def _windowed(kept: Sequence[TokenizedText | None]) -> tuple[WindowedText, ...]:
    texts = ((index, text) for index, text in enumerate(kept) if text is not None and text.windows)
    return tuple(WindowedText(index, text.n_tokens, len(text.windows)) for index, text in texts)


def _output_of(
    plan: EmbedPlan, index: int, text: TokenizedText | EmbedError, outcome: _EngineOutput | EmbedError
) -> Output | EmbedError:
    """The output of input `index`, not yet normalized, or its error."""
    if isinstance(outcome, EmbedError):
        return outcome.for_input(index)
    if isinstance(text, EmbedError) or not (text.windows or plan.request.spans):
        n_dims = plan.request.dimensions
        return outcome.outputs[0] if n_dims is None else _with_direction(index, outcome.outputs[0], n_dims)
    rows = [output for output in outcome.outputs if isinstance(output, Rows)]
    assert len(rows) == len(outcome.outputs), "windows and spans have rows"
    if text.windows:
        mean = _averaged(plan, text, rows)
        return Rows.one_each(DENSE, mean) if mean.any() else _without_vector(index, ": the vectors of its windows")
    spans = plan.request.spans[index]
    ranges = _rows_of_spans(index, text, spans, are_inputs=plan.request.spans_are_inputs)
    if isinstance(ranges, EmbedError):
        return ranges
    return _span_means(index, rows[0].matrix[:, : plan.request.dimensions], ranges, spans)


def _finished(plan: EmbedPlan, outputs: Sequence[Output | None]) -> Output:
    """All outputs joined into one, cut and normalized."""
    request, info = plan.request, plan.served.info
    first = outputs[0]
    if first is None:
        first = next((output for output in outputs if output is not None), None)
    if first is None:
        return none_of(replace(plan.output, kind=DENSE) if request.spans else plan.output, len(outputs))
    joined = type(first).join(outputs)
    kind = info.embd_normalize if request.embd_normalize is None else request.embd_normalize
    finished: Output = joined.finished(kind, request.dimensions)
    is_query = plan.output.is_query
    if request.pool_factor > 1 and not is_query:
        finished = with_fewer_rows(finished, request.pool_factor)
    return finished if request.muvera is None else with_one_vector(finished, request.muvera, is_query=is_query)


def _with_direction(index: int, output: Output, n_dims: int) -> Output | EmbedError:
    """The output, or an error if its first `n_dims` dimensions are all zero, which happens with static models."""
    if isinstance(output, Rows) and output.kind == DENSE and not output.matrix[:, :n_dims].any():
        return InvalidInput(index, f": the first {n_dims} dimensions of its vector are all zero: ask for more")
    return output


def _span_means(index: int, rows: FloatMatrix, ranges: Sequence[range], spans: Sequence[Span]) -> Rows | EmbedError:
    means = mean_over(rows, ranges)
    empty = np.flatnonzero(~means.any(axis=1))
    if not len(empty):
        return Rows(DENSE, means, (0, len(means)))
    start, end = spans[empty[0]]
    return _without_vector(index, f", span {empty[0]} (characters {start} to {end}): the rows of its tokens", "spans")


def _without_vector(index: int, what: str, param: str = "input") -> InvalidInput:
    return InvalidInput(index, f"{what} add up to zero, so it has no vector: leave it out, or use other words", param)


def _rows_of_spans(
    index: int, text: TokenizedText, spans: Sequence[Span], *, are_inputs: bool
) -> list[range] | EmbedError:
    """The token rows of each span of input `index`, or the error for the first span that has none."""
    rows = span_rows(text.offsets, spans, text.n_characters)
    for number, (span, found) in enumerate(zip(spans, rows, strict=True)):
        if found is None:
            is_cut = len(text.tokens) < text.n_tokens
            why = "truncation removed all of its tokens" if is_cut else "it contains no token"
            if are_inputs:
                return InvalidInput(number, f" is a chunk of one text: {why}, so it has no vector: leave it out")
            return InvalidInput(
                index,
                f", span {number} (characters {span[0]} to {span[1]}): {why}, so it has no vector: leave it out",
                "spans",
            )
    return [found for found in rows if found is not None]


def _averaged(plan: EmbedPlan, text: TokenizedText, windows: Sequence[Rows]) -> FloatMatrix:
    """float32[1, d]: the mean of the windows' vectors, weighted by their numbers of tokens.

    Each vector is first cut and normalized like a text's own. A client that embeds the parts separately and averages
    them gets the same vector (the recipe of OpenAI's cookbook).
    """
    request, info = plan.request, plan.served.info
    kind = info.embd_normalize if request.embd_normalize is None else request.embd_normalize
    vectors = finish(np.concatenate([rows.matrix for rows in windows]), kind, request.dimensions)
    return weighted_mean(vectors, [window.n_own for window in text.windows])


def pieces_of(codec: TextCodec, tokens: Sequence[int]) -> list[bytes]:
    """The text of each token. Looks up each distinct id once. Raises `InvalidRequest` for an unknown id."""
    known = {token: codec.token_bytes(token) for token in dict.fromkeys(tokens)}
    return [known[token] for token in tokens]


def _token_infos(kept: Sequence[TokenizedText | None], codec: TextCodec) -> tuple[TokenInfo | None, ...]:
    """One per input; None if it failed. Equal inputs share one object, so that it is serialized once."""
    distinct = {id(text): text for text in kept if text is not None}
    pieces = iter(pieces_of(codec, [token for text in distinct.values() for token in text.tokens]))
    infos = {
        key: TokenInfo(text.tokens, list(islice(pieces, len(text.tokens))), text.offsets)
        for key, text in distinct.items()
    }
    return tuple(None if text is None else infos[id(text)] for text in kept)
