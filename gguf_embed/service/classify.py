"""Requests for a classifier's labels: each text, or each pair of texts, gets a number per label."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from gguf_embed.errors import EmbedError, EngineFailure, InputTooLong, InvalidInput, NotSupported
from gguf_embed.service.pipeline import Computed, ServedModel
from gguf_embed.service.rerank import SOFTMAX_ARCHITECTURES, RerankPlan, head_numbers, plan_pairs
from gguf_embed.service.several import run_several
from gguf_embed.types import (
    SCORES,
    ClassifyRequest,
    ClassifyResult,
    EmbedRequest,
    EmbedResult,
    FloatMatrix,
    ModelInfo,
    OutputSpec,
    RerankRequest,
    Truncation,
    Usage,
)
from gguf_embed.vectors import Rows

GROUPS_AT_ONCE = 16
"""Pairs whose first texts differ are computed apart, so many at the same time."""

Embed = Callable[[EmbedRequest], Awaitable[EmbedResult]]
Run = Callable[[RerankPlan], Awaitable[Computed]]


@dataclass(frozen=True, slots=True)
class _Part:
    """What was computed for some of the texts."""

    numbers: FloatMatrix  # float32[n, n_labels]
    n_tokens: int
    truncated: tuple[Truncation, ...]  # indexes count the part's texts


async def classify(request: ClassifyRequest, served: ServedModel, embed: Embed, run: Run) -> ClassifyResult:
    """Raises the error of the first text that failed; its index counts the request's texts."""
    info = served.info
    if info.rerank_template:
        raise NotSupported(f"model {info.name!r} judges a document for a query, so it has no labels for texts")
    groups = _groups(request.texts)
    calls = [partial(_compute, request, served, indexes, embed, run) for indexes in groups]
    parts = await run_several(calls, GROUPS_AT_ONCE)
    numbers = np.empty((len(request.texts), info.n_scores), np.float32)
    truncated = []
    for indexes, part in zip(groups, parts, strict=True):
        numbers[list(indexes)] = part.numbers
        truncated += [replace(cut, index=indexes[cut.index]) for cut in part.truncated]
    return ClassifyResult(
        model=info,
        numbers=numbers if request.raw_scores else probabilities(numbers, info),
        labels=info.labels or tuple(f"LABEL_{number}" for number in range(info.n_scores)),
        usage=Usage(sum(part.n_tokens for part in parts)),
        truncated=tuple(sorted(truncated, key=lambda cut: cut.index)),
    )


def probabilities(numbers: FloatMatrix, info: ModelInfo) -> FloatMatrix:
    """From 0 to 1: a sigmoid for one label, a softmax over several, unless the head has one of its own."""
    if info.architecture in SOFTMAX_ARCHITECTURES:
        return numbers
    wide = numbers.astype(np.float64)
    if info.n_scores == 1:
        wide = np.concatenate([wide, np.zeros_like(wide)], axis=1)  # a softmax with 0 is the sigmoid
    powers = np.exp(wide - wide.max(axis=1, keepdims=True))
    return np.asarray((powers / powers.sum(axis=1, keepdims=True))[:, : info.n_scores], np.float32)


def _groups(texts: Sequence[str | tuple[str, str]]) -> list[tuple[int, ...]]:
    """The indexes of the texts that are computed together: all single ones, and pairs with the same first text."""
    groups: dict[str | None, list[int]] = {}
    for index, text in enumerate(texts):
        groups.setdefault(None if isinstance(text, str) else text[0], []).append(index)
    return [tuple(indexes) for indexes in groups.values()]


async def _compute(
    request: ClassifyRequest, served: ServedModel, indexes: tuple[int, ...], embed: Embed, run: Run
) -> _Part:
    texts = [request.texts[index] for index in indexes]
    try:
        if isinstance(texts[0], str):
            return await _single_texts(request, tuple(text for text in texts if isinstance(text, str)), embed)
        return await _pairs(request, served, [text for text in texts if not isinstance(text, str)], run)
    except EmbedError as error:
        raise _for_text(error, indexes) from None


def _for_text(error: EmbedError, indexes: Sequence[int]) -> EmbedError:
    """The error with the index of the text in the request."""
    match error:
        case InvalidInput() | EngineFailure() | InputTooLong():
            return error.renumbered(indexes.__getitem__)
        case _:
            return error


async def _single_texts(request: ClassifyRequest, texts: tuple[str, ...], embed: Embed) -> _Part:
    asked = EmbedRequest(
        texts,
        output=OutputSpec(SCORES),
        truncate=request.truncate,
        max_tokens=request.max_tokens,
        cut_start=request.cut_start,
        scores=True,
    )
    result = await embed(asked)
    assert isinstance(result.output, Rows)
    return _Part(result.output.matrix, result.usage.prompt_tokens, result.truncated)


async def _pairs(request: ClassifyRequest, served: ServedModel, pairs: Sequence[tuple[str, str]], run: Run) -> _Part:
    asked = RerankRequest(
        pairs[0][0],
        tuple(second for _, second in pairs),
        truncate=request.truncate,
        max_tokens=request.max_tokens,
        cut_start=request.cut_start,
    )
    plan = plan_pairs(served, asked, column=0)
    result = head_numbers(plan, await run(plan))
    return _Part(result.numbers, result.n_tokens, result.truncated)
