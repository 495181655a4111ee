"""Requests for scores: from a rank head, or as the cosine of vectors."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from gguf_embed.errors import EmbedError, EngineFailure, InputTooLong, InvalidRequest, NotSupported, WayOut
from gguf_embed.preprocessing import prompt_prefixes
from gguf_embed.preprocessing.abandoned import check_abandoned
from gguf_embed.preprocessing.pairs import PairLimits, check_characters, check_query, cut_pair, pair_maker
from gguf_embed.preprocessing.tokens import TokenizedText, special_tokens_of, truncations
from gguf_embed.service.embed_checks import MIN_INPUT_TOKENS, requested_limits
from gguf_embed.service.pipeline import Computed, Plan, ServedModel, deduplicate
from gguf_embed.types import (
    DENSE,
    SCORES,
    EmbedRequest,
    EmbedResult,
    FloatMatrix,
    LoadOptions,
    ModelInfo,
    OutputSpec,
    PromptChoice,
    RerankRequest,
    RerankResult,
    ScoreKind,
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
    column = score_column(served.info, request.label)
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
    submission = computed.submission
    if submission.failures:
        first = min(submission.failures)
        raise submission.failures[first].for_document(plan.index_of.index(first))
    numbers = np.concatenate([output.matrix for output in submission.outputs if isinstance(output, Rows)])
    scores, kind = finish_scores(numbers, plan.served.info, plan.column, raw=plan.request.raw_scores)
    texts = [text for at in plan.index_of if isinstance(text := computed.texts[at], TokenizedText)]
    return RerankResult(
        model=plan.served.info,
        scores=scores[list(plan.index_of)],
        score_kind=kind,
        usage=Usage(sum(len(text.tokens) for text in texts)),
        truncated=truncations(texts),
        timings=computed.timings,
    )


Embed = Callable[[EmbedRequest], Awaitable[EmbedResult]]


async def rank_by_cosine(request: RerankRequest, embed: Embed, served: ServedModel) -> RerankResult:
    """The cosine between each document's vector and the query's. Raises the error of the first that failed."""
    info = served.info
    output = request.output or info.output
    if output.kind != DENSE:
        raise InvalidRequest(
            f"pooling {output.pooling_name} does not give one vector per text, so there is nothing to compare",
            "pooling",
            ways_out=[WayOut.POOL],
        )
    check_characters(request.query, request.documents, info.max_input_tokens)
    one = EmbedRequest((request.query,), output=output, embd_normalize=2, truncate=False)
    many = replace(
        one,
        inputs=request.documents,
        truncate=request.truncate,
        max_tokens=request.max_tokens,
        cut_start=request.cut_start,
    )
    if request.use_prompts:
        one, many = replace(one, prompt=PromptChoice("query")), replace(many, prompt=PromptChoice("document"))
    if request.max_document_tokens is not None:
        many = with_token_limit(served, many, request.max_document_tokens)
    try:
        query = await embed(one)
    except EmbedError as error:
        raise error.for_query() from None
    try:
        documents = await embed(many)
    except EmbedError as error:
        raise _for_document(error) from None
    return RerankResult(
        model=info,
        scores=np.clip(_matrix(documents) @ _matrix(query)[0], -1.0, 1.0),
        score_kind=ScoreKind.COSINE,
        usage=Usage(query.usage.prompt_tokens + documents.usage.prompt_tokens),
        truncated=documents.truncated,
        timings=documents.timings,
        prompts=(query.prompt, documents.prompt),
    )


def _matrix(result: EmbedResult) -> FloatMatrix:
    assert isinstance(result.output, Rows), "dense output was requested"
    return result.output.matrix


def _for_document(error: EmbedError) -> EmbedError:
    match error:
        case InvalidRequest(index=int(index)) | EngineFailure(index=int(index)) | InputTooLong(index=index):
            return error.for_document(index)
        case _:
            return error


def with_token_limit(served: ServedModel, request: EmbedRequest, n_tokens: int) -> EmbedRequest:
    """The request with its texts cut to `n_tokens`, not counting special tokens and the prompt.

    Unchanged if the model's own limit is not higher.
    """
    tokenizer = served.model.tokenizer
    prompt = prompt_prefixes.choose(request.prompt, served.info.prompts)
    if prompt is not None and prompt.text:
        limit = n_tokens + len(tokenizer.encode(prompt.text))
    else:
        special = special_tokens_of(tokenizer)
        limit = n_tokens + len(special.opening) + len(special.closing)
    if limit >= served.model.limits.max_tokens:
        return request
    if limit < MIN_INPUT_TOKENS:
        raise InvalidRequest(
            f"a limit of {n_tokens} tokens per document is too small: this model needs at least {MIN_INPUT_TOKENS}",
            "max_tokens_per_doc",
        )
    return replace(request, truncate=True, load=LoadOptions(n_ctx=limit))


def prepare_pairs(
    served: ServedModel, request: RerankRequest, documents: Sequence[str]
) -> list[TokenizedText | EmbedError]:
    """Tokenize and check the query with each of `documents`, the request's without duplicates. Any thread.

    Raises the first error; a document's index counts the request's documents.
    """
    model = served.model
    limit = model.limits.max_tokens
    if request.max_tokens is not None:
        limit = requested_limits(request.max_tokens, model.limits, model.tokenizer).max_tokens
    truncate = model.config.truncate if request.truncate is None else request.truncate
    limits = PairLimits(limit, truncate, request.max_document_tokens, request.cut_start)
    check_characters(request.query, request.documents, limit)
    make = pair_maker(model.codec, model.tokenizer, model.pair_form, request.query)
    check_query(make(""), limits)
    first = {document: index for index, document in reversed(tuple(enumerate(request.documents)))}
    pairs: list[TokenizedText | EmbedError] = []
    for document in documents:
        check_abandoned()
        pairs.append(cut_pair(make(document), limits, first[document]))
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
