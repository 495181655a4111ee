"""llama-server's `/rerank` and its other paths, in Jina's shape. A body with `texts` gets TEI's plain array.

A body with a field of Voyage's gets the results under its name for them too, `data`.
"""

from __future__ import annotations

import orjson
from aiohttp import web

from gguf_embed.server.context import ERROR_FORMAT, Sent, ServerContext
from gguf_embed.server.dialects.llama.errors import ERRORS
from gguf_embed.server.fields.model import MODEL
from gguf_embed.server.fields.rerank import ParsedRerank, RerankDefaults, documents_field, parse_rerank
from gguf_embed.server.fields.rerank_reply import ranked_items, ranking, rerank_details
from gguf_embed.server.fields.truncation import format_truncation
from gguf_embed.server.fields.voyage import VOYAGE_FIELDS, with_detail
from gguf_embed.server.http.body import embed_response, read_json_object
from gguf_embed.server.http.values import JsonObject
from gguf_embed.types import RerankResult, Truncation

VOYAGE_ERRORS = with_detail(ERRORS)


async def rerank(context: ServerContext, request: Sent, body: JsonObject | None = None) -> web.Response:
    """`POST /rerank`, `/reranking`, `/v1/rerank`, `/v1/reranking`."""
    if body is None:
        assert isinstance(request, web.Request), "a line of a batch has a body"
        body = await read_json_object(context, request)
    if not VOYAGE_FIELDS.isdisjoint(body) and isinstance(request, web.Request):
        request[ERROR_FORMAT] = VOYAGE_ERRORS
    parsed = parse_rerank(body, context.options.max_inputs, defaults_of(context, body))
    result = await context.rerank(parsed.request)
    written = format_tei(parsed, result) if parsed.is_tei else format_jina(parsed, result, body)
    return embed_response(written, result.truncated)


def defaults_of(context: ServerContext, body: JsonObject) -> RerankDefaults:
    """TEI's defaults for a body as its clients send it, else llama-server's; the operator's own scale in any case."""
    is_tei = documents_field(body) == "texts"
    raw_scores, configured = not is_tei, context.options.rerank_scores
    if configured:
        info = context.service.resolve(MODEL.read(body)).info
        names = (info.name.lower(), *map(str.lower, info.aliases), "")
        raw_scores = next((configured[name] for name in names if name in configured), raw_scores)
    return RerankDefaults(raw_scores, truncate=True if is_tei else None)


def format_jina(parsed: ParsedRerank, result: RerankResult, body: JsonObject) -> bytes:
    """Format Jina's reply, which is also llama-server's.

    For Voyage's fields it has the results as `data`, too, and for `raw_scores`, which Infinity's client always sends,
    Infinity's word as `object`.
    """
    n_tokens = result.usage.prompt_tokens
    items = ranked_items(parsed, result)
    reply = {
        "model": result.model.name,
        "object": "list" if body.get("raw_scores") is None else "rerank",
        "usage": {"prompt_tokens": n_tokens, "total_tokens": n_tokens},
        "results": items,
    }
    if not VOYAGE_FIELDS.isdisjoint(body):
        reply["data"] = items
    return orjson.dumps(reply | rerank_details(result), option=orjson.OPT_SERIALIZE_NUMPY)


def format_tei(parsed: ParsedRerank, result: RerankResult) -> bytes:
    """Format TEI's reply."""
    cuts = {cut.index: cut for cut in result.truncated}
    reply = [_tei_item(parsed, result, index, cuts.get(index)) for index in ranking(result, parsed.top_n)]
    return orjson.dumps(reply, option=orjson.OPT_SERIALIZE_NUMPY)


def _tei_item(parsed: ParsedRerank, result: RerankResult, index: int, cut: Truncation | None) -> dict[str, object]:
    item: dict[str, object] = {"index": index, "score": result.scores[index]}
    if parsed.return_documents:
        item["text"] = parsed.request.documents[index]
    return item if cut is None else item | {"truncated": format_truncation(cut)}
