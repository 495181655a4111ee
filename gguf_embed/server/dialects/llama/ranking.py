"""NVIDIA's `/v1/ranking`: a query and passages as objects with `text`, and logits, the best first."""

from __future__ import annotations

from dataclasses import replace

import orjson
from aiohttp import web

from gguf_embed.server.context import ServerContext
from gguf_embed.server.fields.field import has
from gguf_embed.server.fields.rerank import ParsedRerank, RerankDefaults, parse_rerank
from gguf_embed.server.fields.rerank_fields import DOCUMENTS, RERANK_REQUEST, TEI_DOCUMENTS
from gguf_embed.server.fields.rerank_reply import ranking, rerank_details
from gguf_embed.server.http.body import embed_response, read_json_object
from gguf_embed.types import RerankResult

RANKING = replace(
    RERANK_REQUEST,
    name="NvidiaRankingRequest",
    fields=tuple(
        DOCUMENTS.called("passages") if field is DOCUMENTS else field
        for field in RERANK_REQUEST.fields
        if field is not TEI_DOCUMENTS
    ),
    text="The fields of a rerank request, with `passages` as the documents.",
    rules={**RERANK_REQUEST.rules, "oneOf": [has({"passages": {"type": "array"}})]},
)
DEFAULTS = RerankDefaults(raw_scores=True)  # whatever the operator's scale is: the reply calls scores logits


async def rank(context: ServerContext, request: web.Request) -> web.Response:
    """`POST /v1/ranking`."""
    body = await read_json_object(context, request)
    parsed = parse_rerank(body, context.options.max_inputs, DEFAULTS)
    result = await context.rerank(parsed.request)
    return embed_response(format_rankings(parsed, result), result.truncated)


def format_rankings(parsed: ParsedRerank, result: RerankResult) -> bytes:
    """Format NVIDIA's reply."""
    n_tokens = result.usage.prompt_tokens
    reply: dict[str, object] = {
        "rankings": [{"index": index, "logit": result.scores[index]} for index in ranking(result, parsed.top_n)],
        "model": result.model.name,
        "usage": {"prompt_tokens": n_tokens, "total_tokens": n_tokens},
    }
    return orjson.dumps(reply | rerank_details(result), option=orjson.OPT_SERIALIZE_NUMPY)
