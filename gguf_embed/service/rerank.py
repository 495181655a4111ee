"""One rerank request on one loaded model: pairs, scores, and cosines where they are asked for."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np

from gguf_embed.errors import EmbedError, EngineFailure, InputTooLong, InvalidRequest, NotSupported
from gguf_embed.metrics import Metrics
from gguf_embed.preprocessing import prompt_prefixes as prompts
from gguf_embed.preprocessing.pairs import PairLimits, check_characters, check_query, cut_pair, pair_maker
from gguf_embed.preprocessing.tokens import special_tokens_of, truncations
from gguf_embed.service.embed import MIN_INPUT_TOKENS, Inference, ServedModel, deduplicate
from gguf_embed.types import (
    EmbedRequest,
    EmbedResult,
    FloatMatrix,
    LoadOptions,
    ModelInfo,
    Pooling,
    PromptChoice,
    RerankRequest,
    RerankResult,
    ScoreKind,
    Timings,
    TokenizedText,
    Usage,
)

SOFTMAX_ARCHITECTURES = ("qwen3", "qwen3vl")
"""llama.cpp answers with probabilities for these (llm_graph_context::build_pooling): no sigmoid on top."""


@dataclass(frozen=True, slots=True)
class Reranking:
    """Answers requests with models that are held for them. Methods belong to the event loop."""

    inference: Inference
    metrics: Metrics

    async def rerank(self, served: ServedModel, request: RerankRequest, load_s: float) -> RerankResult:
        """Score all documents. Raises one `EmbedError`, naming the first document at fault."""
        if request.method == "embedding":
            return await self._by_cosine(served, request, load_s)
        return await self._by_rank_head(served, request, load_s)

    async def _by_rank_head(self, served: ServedModel, request: RerankRequest, load_s: float) -> RerankResult:
        info, model = served.info, served.model
        column = score_column(info, request.label)
        started_s = time.monotonic()
        distinct = deduplicate(request.documents)
        documents = tuple(map(str, distinct.inputs))
        n_characters = sum(map(len, documents)) + len(request.query)
        texts = await self.inference.tokenizing(n_characters, lambda: prepare_pairs(served, request, documents))
        tokenized_s = time.monotonic()
        submission = await model.scheduler.submit([text.tokens for text in texts], Pooling.RANK, keep_failures=True)
        if submission.failures:
            first = min(submission.failures)
            raise submission.failures[first].for_document(distinct.place.index(first))
        if len(documents) < len(request.documents):
            self.metrics.observe_duplicates(len(request.documents) - len(documents))
        scores, kind = finish_scores(np.concatenate(submission.rows), info, column, raw=request.raw_scores)
        in_order = [texts[i] for i in distinct.place]
        return RerankResult(
            model=info,
            scores=scores[list(distinct.place)],
            score_kind=kind,
            usage=Usage(sum(len(text.tokens) for text in in_order)),
            truncated=truncations(in_order),
            timings=Timings(tokenized_s - started_s, submission.queue_s, submission.compute_s, load_s),
        )

    async def _by_cosine(self, served: ServedModel, request: RerankRequest, load_s: float) -> RerankResult:
        info = served.info
        pooling = request.pooling or info.pooling
        if pooling in (Pooling.RANK, Pooling.NONE):
            raise InvalidRequest(
                f"this model is served with pooling {pooling}, which gives no vector per text to compare: "
                'send "pooling": "mean", "cls" or "last" with "method": "embedding"',
                "pooling",
            )
        check_characters(request.query, request.documents, info.max_input_tokens)
        one = EmbedRequest((request.query,), pooling=pooling, embd_normalize=2, truncate=False)
        many = replace(one, inputs=request.documents, truncate=request.truncate)
        if request.use_prompts:
            one, many = replace(one, prompt=PromptChoice("query")), replace(many, prompt=PromptChoice("document"))
        if request.max_document_tokens is not None:
            many = shortened(served, many, request.max_document_tokens)
        query = await self._embed_query(served, one)
        try:
            documents = await self.inference.embed(served, many, load_s)
        except EmbedError as error:
            raise _about_a_document(error) from None
        return RerankResult(
            model=info,
            scores=np.clip(documents.vectors @ query.vectors[0], -1.0, 1.0),
            score_kind=ScoreKind.COSINE,
            usage=Usage(query.usage.prompt_tokens + documents.usage.prompt_tokens),
            truncated=documents.truncated,
            timings=documents.timings,
            prompts=(query.prompt, documents.prompt),
        )

    async def _embed_query(self, served: ServedModel, request: EmbedRequest) -> EmbedResult:
        try:
            return await self.inference.embed(served, request, 0.0)
        except EmbedError as error:
            raise error.for_query() from None


def _about_a_document(error: EmbedError) -> EmbedError:
    match error:
        case InvalidRequest(index=int(index)) | EngineFailure(index=int(index)) | InputTooLong(index=index):
            return error.for_document(index)
        case _:
            return error


def shortened(served: ServedModel, request: EmbedRequest, n_tokens: int) -> EmbedRequest:
    """The request with its texts cut to `n_tokens` of their own: special tokens and the prompt come on top.

    Where the model takes fewer anyhow, the request as it was.
    """
    tokenizer = served.model.tokenizer
    prompt = prompts.choose(request.prompt, served.info.prompts)
    if prompt is not None and prompt.text:
        limit = n_tokens + len(tokenizer.encode(prompt.text))
    else:
        frame = special_tokens_of(tokenizer)
        limit = n_tokens + len(frame.opening) + len(frame.closing)
    if limit >= served.model.limits.max_tokens:
        return request
    if limit < MIN_INPUT_TOKENS:
        raise InvalidRequest(
            f'"max_tokens_per_doc" is {n_tokens}, this model needs {MIN_INPUT_TOKENS} at least', "max_tokens_per_doc"
        )
    return replace(request, truncate=True, load=LoadOptions(n_ctx=limit))


def prepare_pairs(served: ServedModel, request: RerankRequest, documents: tuple[str, ...]) -> list[TokenizedText]:
    """Tokenize and check the query with each of `documents`, the request's without repetitions. Any thread.

    Raises the first thing that is wrong, naming a document by its place in the request.
    """
    model = served.model
    limit = model.limits.max_tokens
    truncate = model.config.truncate if request.truncate is None else request.truncate
    limits = PairLimits(limit, truncate, request.max_document_tokens)
    check_characters(request.query, request.documents, limit)
    make = pair_maker(model.engine, model.tokenizer, served.info.rerank_template, request.query)
    check_query(make(""), limits)
    first = {document: index for index, document in reversed(tuple(enumerate(request.documents)))}
    return [cut_pair(make(document), limits, first[document]) for document in documents]


def score_column(info: ModelInfo, label: str | None) -> int:
    """Which of the head's numbers is the relevance.

    Raises `InvalidRequest` for a label that the model lacks, `NotSupported` where no one number is it.
    """
    if label is not None:
        return _column_of(info, label)
    if info.architecture in SOFTMAX_ARCHITECTURES:
        if info.n_scores == 1:
            raise NotSupported(
                f"the rank head of {info.name!r} knows one label, so that its probability is always 1: "
                "get another GGUF of this model; gguf-embed doctor tells what is wrong with it"
            )
        yes = [index for index, name in enumerate(info.labels) if name.casefold() == "yes"]
        return yes[0] if yes else 0
    if info.n_scores > 1:
        listed = ", ".join(info.labels) or "not named"
        raise NotSupported(
            f"the rank head of {info.name!r} gives {info.n_scores} numbers ({listed}), and no one of them is the "
            'relevance: send "label" with the name or number of the one that is meant'
        )
    return 0


def _column_of(info: ModelInfo, label: str) -> int:
    if label in info.labels:
        return info.labels.index(label)
    if label.isdecimal() and len(label) < 6 and int(label) < info.n_scores:
        return int(label)
    listed = ", ".join(map(repr, info.labels)) or f"0 to {info.n_scores - 1}"
    raise InvalidRequest(f'"label" is {label[:60]!r}, this model has {listed}', "label")


def finish_scores(
    rows: FloatMatrix, info: ModelInfo, column: int, *, raw: bool
) -> tuple[np.ndarray[tuple[int, ...], np.dtype[np.float32]], ScoreKind]:
    """float32[n, n_scores] as the engine gives them → one score each, raw or between 0 and 1, and what it is."""
    if info.architecture in SOFTMAX_ARCHITECTURES:
        return rows[:, column].copy(), ScoreKind.PROBABILITY
    if raw:
        return rows[:, column].copy(), ScoreKind.LOGIT
    wide = rows.astype(np.float64)
    if info.n_scores == 1:
        # one of both forms would overflow
        small = np.exp(-np.abs(wide[:, 0]))
        scores = np.where(wide[:, 0] >= 0, 1.0, small) / (1.0 + small)
    else:
        powers = np.exp(wide - wide.max(axis=1, keepdims=True))
        scores = powers[:, column] / powers.sum(axis=1)
    return scores.astype(np.float32), ScoreKind.PROBABILITY
