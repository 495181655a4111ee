"""Formats the parts of a rerank reply that all dialects share."""

from __future__ import annotations

import numpy as np

from gguf_embed.server.fields.prompt_prefix import format_applied_prompt
from gguf_embed.server.fields.rerank import ParsedRerank
from gguf_embed.server.fields.truncation import format_truncation
from gguf_embed.types import RerankResult


def ranking(result: RerankResult, top_n: int | None) -> list[int]:
    """The indexes of the best `top_n` documents, best first, equal scores in the request's order."""
    return [int(index) for index in np.argsort(-result.scores, kind="stable")[:top_n]]


def ranked_items(parsed: ParsedRerank, result: RerankResult) -> list[dict[str, object]]:
    """`{"index", "relevance_score"}` for each document, best first, with the document itself if requested."""
    return [_item(parsed, result, index) for index in ranking(result, parsed.top_n)]


def _item(parsed: ParsedRerank, result: RerankResult, index: int) -> dict[str, object]:
    item: dict[str, object] = {"index": index, "relevance_score": result.scores[index]}
    if parsed.return_documents:
        document = parsed.documents[index]
        item["document"] = document if isinstance(document, dict) else {"text": document}
    return item


def rerank_details(result: RerankResult) -> dict[str, object]:
    """Our own fields in a reply."""
    details: dict[str, object] = {"score_kind": result.score_kind.value}
    if any(result.prompts):
        query, document = map(format_applied_prompt, result.prompts)
        details["prompt"] = {"query": query, "document": document}
    if result.truncated:
        details["truncated"] = [{"index": cut.index, **format_truncation(cut)} for cut in result.truncated]
    return details
