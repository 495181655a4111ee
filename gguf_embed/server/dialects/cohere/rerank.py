"""Cohere's `/v2/rerank`: scores are between 0 and 1, and long documents are cut by default."""

from __future__ import annotations

import os

import orjson
from aiohttp import web

from gguf_embed.server.context import ServerContext
from gguf_embed.server.fields.rerank import ParsedRerank, RerankDefaults, parse_rerank
from gguf_embed.server.fields.rerank_reply import ranked_items, rerank_details
from gguf_embed.server.http.body import embed_response, read_json_object
from gguf_embed.types import RerankResult, ScoreKind

DOCUMENTS_PER_SEARCH_UNIT = 100  # Cohere bills a query with up to 100 documents as one unit
DEFAULTS = RerankDefaults(raw_scores=False, truncate=True)


async def rerank(context: ServerContext, request: web.Request) -> web.Response:
    """`POST /v2/rerank`."""
    body = await read_json_object(context, request)
    parsed = parse_rerank(body, context.options.max_inputs, DEFAULTS)
    result = await context.rerank(parsed.request)
    return embed_response(format_rerank(parsed, result), result.truncated)


def format_rerank(parsed: ParsedRerank, result: RerankResult) -> bytes:
    """Format Cohere's reply."""
    meta: dict[str, object] = {
        "api_version": {"version": "2"},
        "billed_units": {"search_units": -(-len(result.scores) // DOCUMENTS_PER_SEARCH_UNIT)},
        "tokens": {"input_tokens": result.usage.prompt_tokens},
    }
    if result.truncated:
        alone = result.score_kind is ScoreKind.COSINE
        meta["warnings"] = [
            f"document {cut.index} was cut: {cut.n_kept} of {cut.n_tokens} tokens were read"
            + ("" if alone else ", the query's included")
            for cut in result.truncated
        ]
    reply = {
        "id": os.urandom(16).hex(),
        "results": ranked_items(parsed, result),
        "meta": meta,
        "model": result.model.name,
    }
    return orjson.dumps(reply | rerank_details(result), option=orjson.OPT_SERIALIZE_NUMPY)
