"""Requests for scores: from a rank head, or as the cosine of vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from gguf_embed.errors import DocumentTooLong, EmbedError, InvalidRequest, NotSupported, WayOut
from gguf_embed.preprocessing.abandoned import check_abandoned
from gguf_embed.preprocessing.pairs import PairLimits, check_characters, check_query, cut_pair, pair_maker
from gguf_embed.preprocessing.tokens import TokenizedText, truncations
from gguf_embed.service.embed_checks import requested_limits
from gguf_embed.service.pipeline import Computed, Plan, ServedModel, deduplicate
from gguf_embed.types import (
    SCORES,
    FloatMatrix,
    ModelInfo,
    OutputSpec,
    RerankRequest,
    RerankResult,
    ScoreKind,
    Truncation,
    Usage,
)
from gguf_embed.vectors import Rows

SOFTMAX_ARCHITECTURES = ("qwen3", "qwen3vl")
"""llama.cpp returns probabilities for these (llm_graph_context::build_pooling), so no sigmoid is applied."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RerankPlan(Plan):
    """A query with documents, to be scored by a rank head."""

    request: RerankRequest
    documents: Sequence[str]  # without duplicates
    column: int  # which of the head's numbers is the relevance

    def tokenize(self) -> Sequence[TokenizedText | EmbedError]:
        return prepare_pairs(self.served, self.request, self.documents)


def plan_rerank(served: ServedModel, request: RerankRequest) -> RerankPlan:
    """Raises what `score_column` raises."""
    return plan_pairs(served, request, score_column(served.info, request.label))


def plan_pairs(served: ServedModel, request: RerankRequest, column: int) -> RerankPlan:
    documents, index_of = deduplicate(request.documents)
    return RerankPlan(
        served=served,
        output=OutputSpec(SCORES),
        index_of=index_of,
        n_characters=sum(map(len, documents)) + len(request.query),
        request=request,
        documents=documents,
        column=column,
    )


def rank_scores(plan: RerankPlan, computed: Computed) -> RerankResult:
    """The scores from a rank head. Raises the error of the first document that failed."""
    found = head_numbers(plan, computed)
    scores, kind = finish_scores(found.numbers, plan.served.info, plan.column, raw=plan.request.raw_scores)
    return RerankResult(
        model=plan.served.info,
        scores=scores,
        score_kind=kind,
        usage=Usage(found.n_tokens),
        truncated=found.truncated,
        timings=computed.timings,
    )


@dataclass(frozen=True, slots=True)
class HeadNumbers:
    """What a rank head returned for a request's documents."""

    numbers: FloatMatrix  # float32[n_documents, n_scores]
    n_tokens: int
    truncated: tuple[Truncation, ...]


def head_numbers(plan: RerankPlan, computed: Computed) -> HeadNumbers:
    """Raises the error of the first document that failed."""
    submission = computed.submission
    if submission.failures:
        first = min(submission.failures)
        raise submission.failures[first].for_document(plan.index_of.index(first))
    numbers = np.concatenate([output.matrix for output in submission.outputs if isinstance(output, Rows)])
    texts = [text for at in plan.index_of if isinstance(text := computed.texts[at], TokenizedText)]
    n_tokens = sum(len(text.tokens) for text in texts)
    return HeadNumbers(numbers[list(plan.index_of)], n_tokens, truncations(texts))


def pair_limits(served: ServedModel, request: RerankRequest) -> PairLimits:
    """Raises `InvalidRequest` for a limit that leaves no room for a text."""
    model = served.model
    limit = model.limits.max_tokens
    if request.max_tokens is not None:
        limit = requested_limits(request.max_tokens, model.limits, model.tokenizer).max_tokens
    truncate = model.config.truncate if request.truncate is None else request.truncate
    return PairLimits(limit, truncate, request.max_document_tokens, request.cut_start)


def prepare_pairs(
    served: ServedModel, request: RerankRequest, documents: Sequence[str]
) -> list[TokenizedText | EmbedError]:
    """Tokenize and check the query with each of `documents`, the request's without duplicates. Any thread.

    Raises an error about all documents that are too long; their indexes count the request's documents.
    """
    model, limits = served.model, pair_limits(served, request)
    check_characters(request.query, request.documents, limits.max_tokens)
    form = replace(model.pair_form, instruction=request.instruction)
    make = pair_maker(model.codec, model.tokenizer, form, request.query)
    check_query(make(""), limits)
    pairs: list[TokenizedText | EmbedError] = []
    too_long: dict[str, int] = {}  # document → tokens
    for document in documents:
        check_abandoned()
        try:
            pairs.append(cut_pair(make(document), limits))
        except DocumentTooLong as error:
            too_long[document] = error.n_tokens
    if too_long:
        found = [(index, too_long[text]) for index, text in enumerate(request.documents) if text in too_long]
        raise DocumentTooLong.of(found, limits.max_tokens)
    return pairs


def score_column(info: ModelInfo, label: str | None) -> int:
    """Which of the head's numbers is the relevance.

    Raises `InvalidRequest` for an unknown label, `NotSupported` if no single number is the relevance.
    """
    if label is not None:
        return _column_of(info, label)
    if info.architecture in SOFTMAX_ARCHITECTURES:
        if info.n_scores == 1:
            raise NotSupported(
                f"the rank head of {info.name!r} has only one label, whose probability is always 1",
                [WayOut.REPAIR_FILE, WayOut.OTHER_FILE],
            )
        yes = [index for index, name in enumerate(info.labels) if name.casefold() == "yes"]
        return yes[0] if yes else 0
    if info.n_scores > 1:
        listed = ", ".join(info.labels) or "not named"
        raise NotSupported(
            f"the rank head of {info.name!r} returns {info.n_scores} numbers ({listed}), and none of them alone is the "
            "relevance",
            [WayOut.NAME_LABEL],
        )
    return 0


def _column_of(info: ModelInfo, label: str) -> int:
    if label in info.labels:
        return info.labels.index(label)
    if label.isdecimal() and len(label) < 6 and int(label) < info.n_scores:
        return int(label)
    listed = ", ".join(map(repr, info.labels)) or f"0 to {info.n_scores - 1}"
    raise InvalidRequest(f"there is no label {label[:60]!r}, this model has {listed}", "label")


def finish_scores(
    rows: FloatMatrix, info: ModelInfo, column: int, *, raw: bool
) -> tuple[np.ndarray[tuple[int, ...], np.dtype[np.float32]], ScoreKind]:
    """float32[n, n_scores] from the engine → one score per row, raw or between 0 and 1, and its kind."""
    if info.architecture in SOFTMAX_ARCHITECTURES:
        return rows[:, column].copy(), ScoreKind.PROBABILITY
    if raw:
        return rows[:, column].copy(), ScoreKind.LOGIT
    wide = rows.astype(np.float64)
    if info.n_scores == 1:
        # the sigmoid in two forms, because exp(-x) overflows for large negative x
        small = np.exp(-np.abs(wide[:, 0]))
        scores = np.where(wide[:, 0] >= 0, 1.0, small) / (1.0 + small)
    else:
        powers = np.exp(wide - wide.max(axis=1, keepdims=True))
        scores = powers[:, column] / powers.sum(axis=1)
    return scores.astype(np.float32), ScoreKind.PROBABILITY
