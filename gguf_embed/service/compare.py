"""Scores of documents from vectors: the cosine of two vectors, or MaxSim of multi-vectors."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from gguf_embed.errors import EmbedError, EngineFailure, InputTooLong, InvalidRequest, WayOut
from gguf_embed.preprocessing import prompt_prefixes
from gguf_embed.preprocessing.pairs import check_characters
from gguf_embed.preprocessing.tokenizers import special_tokens_of
from gguf_embed.service.embed_checks import MIN_INPUT_TOKENS
from gguf_embed.service.head_outputs import check_sparse_only
from gguf_embed.service.pipeline import ServedModel, tokenizing
from gguf_embed.types import (
    DENSE,
    MULTIVECTOR,
    EmbedRequest,
    EmbedResult,
    LoadOptions,
    OutputSpec,
    PromptChoice,
    RerankRequest,
    RerankResult,
    ScoreKind,
    Usage,
)
from gguf_embed.vectors import Rows

Embed = Callable[[EmbedRequest], Awaitable[EmbedResult]]


async def rank_by_cosine(request: RerankRequest, embed: Embed, served: ServedModel) -> RerankResult:
    """The cosine between each document's vector and the query's. Raises the error of the first that failed."""
    output = request.output or served.info.output
    check_sparse_only(served.info, output)
    if output.kind != DENSE:
        raise InvalidRequest(
            f"pooling {output.pooling_name} does not give one vector per text, so there is nothing to compare",
            "pooling",
            ways_out=[WayOut.POOL],
        )
    embedded = await _embed_both(request, output, embed, served)
    query, documents = (_rows(result).matrix for result in (embedded.query, embedded.documents))
    return _result(embedded, np.clip(documents @ query[0], -1.0, 1.0), ScoreKind.COSINE)


async def rank_by_maxsim(request: RerankRequest, embed: Embed, served: ServedModel) -> RerankResult:
    """The sum over the query's vectors of the largest dot product with a document's (ColBERT).

    Raises the error of the first text that failed.
    """
    embedded = await _embed_both(replace(request, use_prompts=True), OutputSpec(MULTIVECTOR), embed, served)
    return _result(embedded, maxsim(_rows(embedded.query), _rows(embedded.documents)), ScoreKind.MAXSIM)


def maxsim(query: Rows, documents: Rows) -> NDArray[np.float32]:
    """float32[n_documents]. `query` is the multi-vector of one text, each document has at least one row."""
    similarities = documents.matrix @ query.matrix.T
    best = np.maximum.reduceat(similarities, np.asarray(documents.offsets[:-1], np.int64), axis=0)
    return np.asarray(best.sum(axis=1), np.float32)


@dataclass(frozen=True, slots=True)
class _Embedded:
    """A request's query and documents as vectors."""

    query: EmbedResult
    documents: EmbedResult


async def _embed_both(request: RerankRequest, output: OutputSpec, embed: Embed, served: ServedModel) -> _Embedded:
    check_characters(request.query, request.documents, served.info.max_input_tokens)
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
        limited = partial(with_token_limit, served, many, request.max_document_tokens)
        many = await tokenizing(served.model, 1, limited)  # and the operator's prompt
    try:
        query = await embed(one)
    except EmbedError as error:
        raise error.for_query() from None
    try:
        return _Embedded(query, await embed(many))
    except EmbedError as error:
        raise _for_document(error) from None


def _result(embedded: _Embedded, scores: NDArray[np.float32], kind: ScoreKind) -> RerankResult:
    query, documents = embedded.query, embedded.documents
    return RerankResult(
        model=documents.model,
        scores=scores,
        score_kind=kind,
        usage=Usage(query.usage.prompt_tokens + documents.usage.prompt_tokens),
        truncated=documents.truncated,
        timings=documents.timings,
        prompts=(query.prompt, documents.prompt),
    )


def _rows(result: EmbedResult) -> Rows:
    assert isinstance(result.output, Rows), "vectors were requested"
    return result.output


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
