"""vLLM's `/score`: pairs of texts, 1:1, 1:N or N:N, to scores: of a rank head, MaxSim, or the cosine of two vectors."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import orjson
from aiohttp import web

from gguf_embed.errors import EmbedError, InvalidRequest
from gguf_embed.server.context import ServerContext
from gguf_embed.server.fields.entries import text_or_texts
from gguf_embed.server.fields.field import Body, Json, Shaped
from gguf_embed.server.fields.model import MODEL
from gguf_embed.server.fields.options import refuse_elsewhere
from gguf_embed.server.fields.rerank import parse_raw_scores
from gguf_embed.server.fields.rerank_fields import INSTRUCTION, MAX_TOKENS_PER_DOC, RAW_SCORES
from gguf_embed.server.fields.truncation import CUTTING_FIELDS, parse_cutting
from gguf_embed.server.fields.urgency import URGENCY_FIELDS
from gguf_embed.server.http.body import embed_response, read_json_object
from gguf_embed.server.http.errors import TooManyInputs
from gguf_embed.server.http.values import JsonObject
from gguf_embed.service.several import run_several
from gguf_embed.types import DENSE, RerankRequest, RerankResult, ScoreKind, Truncation

AT_ONCE = 16
"""Pairs with queries of their own that are computed at the same time."""

_TEXTS: Json = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]}
QUERIES = Shaped(
    "queries", "One text, or as many as documents.", also=("text_1", "data_1"), required=True, shape=_TEXTS
)
DOCUMENTS = Shaped("documents", "One text or several.", also=("text_2", "data_2", "items"), required=True, shape=_TEXTS)
REQUEST = Body(
    "ScoreRequest",
    (
        *(QUERIES, DOCUMENTS, MODEL),
        replace(
            RAW_SCORES,
            text="`true`: a rank head's own numbers instead of numbers from 0 to 1. The other names but the first mean "
            "the opposite.",
            default="`false`",
        ),
        *(INSTRUCTION, MAX_TOKENS_PER_DOC),
    ),
    "A query with each document, or each query with its own document.",
    groups=(replace(CUTTING_FIELDS, default="`--truncate`"), URGENCY_FIELDS),
)


@dataclass(frozen=True, slots=True)
class Scores:
    """The scores of all pairs, in order."""

    model: str
    values: Sequence[float]
    kind: ScoreKind
    n_tokens: int
    truncated: tuple[Truncation, ...]  # indexes count the pairs


async def score(context: ServerContext, request: web.Request) -> web.Response:
    """`POST /score` and `/v1/score`."""
    body = await read_json_object(context, request)
    requests = parse_score(body, context.options.max_inputs)
    info = context.service.resolve(requests[0].model).info
    if not info.n_scores and info.output.kind == DENSE:
        requests = [replace(asked, method="embedding") for asked in requests]
    calls = [partial(_score_pair, context, asked, index) for index, asked in enumerate(requests)]
    scores = joined([await context.rerank(requests[0])] if len(requests) == 1 else await run_several(calls, AT_ONCE))
    return embed_response(written(scores), scores.truncated)


async def _score_pair(context: ServerContext, asked: RerankRequest, index: int) -> RerankResult:
    """The score of the pair `index`. Raises the errors of its document with that index."""
    try:
        return await context.rerank(asked)
    except EmbedError as error:
        raise error.for_document(index) from None


def parse_score(body: JsonObject, max_inputs: int) -> list[RerankRequest]:
    """One request per query, in the order of the pairs. Raises `InvalidRequest` naming the field."""
    refuse_elsewhere(body, taken=INSTRUCTION.names)
    queries, documents = _texts(body, QUERIES), _texts(body, DOCUMENTS)
    if len(queries) not in (1, len(documents)):
        raise InvalidRequest(
            f"there are {len(queries)} queries and {len(documents)} documents: send one query, or as many as documents",
            QUERIES.name,
        )
    if len(documents) > max_inputs:
        raise TooManyInputs(
            f"there are {len(documents)} documents, the limit per request is {max_inputs}: send several requests",
            DOCUMENTS.name,
        )
    cutting = parse_cutting(body)
    shared = RerankRequest(
        queries[0],
        documents,
        model=MODEL.read(body),
        raw_scores=parse_raw_scores(body) or False,
        truncate=cutting.truncate,
        max_tokens=cutting.max_tokens,
        cut_start=cutting.cut_start,
        max_document_tokens=MAX_TOKENS_PER_DOC.read(body),
        instruction=INSTRUCTION.read(body) or None,
    )
    if len(queries) == 1:
        return [shared]
    return [replace(shared, query=query, documents=(text,)) for query, text in zip(queries, documents, strict=True)]


def _texts(body: JsonObject, field: Shaped) -> tuple[str, ...]:
    names = field.given(body)
    name = names[0] if names else field.name
    return text_or_texts(body.get(name), name)


def joined(results: Sequence[RerankResult]) -> Scores:
    """The results of several requests, of one pair each, or of one request."""
    if len(results) == 1:
        [one] = results
        return Scores(one.model.name, one.scores.tolist(), one.score_kind, one.usage.prompt_tokens, one.truncated)
    cuts = [replace(cut, index=index) for index, result in enumerate(results) for cut in result.truncated]
    return Scores(
        results[0].model.name,
        [float(result.scores[0]) for result in results],
        results[0].score_kind,
        sum(result.usage.prompt_tokens for result in results),
        tuple(cuts),
    )


def written(scores: Scores) -> bytes:
    """vLLM's reply, with the kind of the scores."""
    reply = {
        "id": f"score-{uuid.uuid4().hex}",
        "object": "list",
        "created": int(time.time()),
        "model": scores.model,
        "data": [{"index": index, "object": "score", "score": value} for index, value in enumerate(scores.values)],
        "usage": {"prompt_tokens": scores.n_tokens, "total_tokens": scores.n_tokens},
        "score_kind": scores.kind.value,
    }
    return orjson.dumps(reply)
