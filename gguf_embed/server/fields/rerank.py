"""Parses the fields of a rerank request, which all dialects share, and formats the shared parts of replies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

import numpy as np

from gguf_embed.errors import InvalidRequest
from gguf_embed.server.fields.aliases import DOCUMENTS, RAW_SCORES, RETURN_DOCUMENTS, TOP_N, set_names
from gguf_embed.server.fields.inputs import check_count
from gguf_embed.server.fields.options import refuse_elsewhere
from gguf_embed.server.fields.outputs import parse_pooling
from gguf_embed.server.fields.prompt_prefix import format_applied_prompt
from gguf_embed.server.fields.truncation import format_truncation, parse_cutting
from gguf_embed.server.http.values import (
    JsonObject,
    describe,
    optional_bool,
    optional_choice,
    optional_int,
    optional_str,
    wrong_value,
)
from gguf_embed.types import RerankRequest, RerankResult


@dataclass(frozen=True, slots=True)
class RerankDefaults:
    """A dialect's defaults for absent fields."""

    raw_scores: bool = True
    truncate: bool | None = None  # None: the server's setting


@dataclass(frozen=True, slots=True)
class ParsedRerank:
    """A parsed body: what to compute, and how to format the reply."""

    request: RerankRequest
    documents: tuple[object, ...]  # as the client sent them: strings or objects
    top_n: int | None = None
    return_documents: bool = False
    is_tei: bool = False  # the documents came as TEI's clients send them


def parse_rerank(body: JsonObject, max_inputs: int, defaults: RerankDefaults) -> ParsedRerank:
    """Parse a request body. Raises `InvalidRequest` naming the field."""
    query = _parse_query(body)
    refuse_elsewhere(body)
    param = documents_field(body)
    documents = _parse_list(body, param, max_inputs)
    if param == "passages":
        for index, passage in enumerate(documents):
            _refuse_image(passage, f"passages[{index}]")
    fields = _parse_rank_fields(body)
    raw_scores, cutting = _parse_raw_scores(body), parse_cutting(body, defaults.truncate)
    request = RerankRequest(
        query=query,
        documents=tuple(_text_of(document, f"{param}[{index}]", fields) for index, document in enumerate(documents)),
        model=optional_str(body, "model"),
        method=cast(Literal["rank", "embedding"], optional_choice(body, "method", ("rank", "embedding")) or "rank"),
        raw_scores=defaults.raw_scores if raw_scores is None else raw_scores,
        label=_parse_label(body),
        truncate=cutting.truncate,
        max_tokens=cutting.max_tokens,
        cut_start=cutting.cut_start,
        max_document_tokens=optional_int(body, "max_tokens_per_doc", minimum=1),
        output=parse_pooling(body, ("mean", "cls", "last")),
        use_prompts=optional_bool(body, "use_prompts") or False,
    )
    _check_method(request, raw_scores)
    wants_text = [optional_bool(body, name) for name in RETURN_DOCUMENTS]
    return ParsedRerank(
        request, tuple(documents), _parse_top_n(body), return_documents=True in wants_text, is_tei=param == "texts"
    )


def _parse_query(body: JsonObject) -> str:
    """The query: a string, or an object with its text as NVIDIA's clients send it."""
    match body.get("query"):
        case str(query):
            return query
        case {"text": str(query), **others}:
            _refuse_image(others, "query")
            return query
        case other:
            raise wrong_value("query", "a string", other)


def documents_field(body: JsonObject) -> str:
    """The first of `aliases.DOCUMENTS` that is no flag. Raises `InvalidRequest` for another with other documents."""
    found = [name for name in set_names(body, DOCUMENTS) if not isinstance(body[name], bool)]
    for name in found[1:]:
        if body[name] != body[found[0]]:
            raise InvalidRequest(f'"{found[0]}" and "{name}" mean the same here: send only one of them', name)
    return next(iter((*found, *set_names(body, DOCUMENTS))), "documents")


def _parse_raw_scores(body: JsonObject) -> bool | None:
    """Whether scores are the head's own numbers, by any of the names; None if the request does not say."""
    first: str | None = None
    raw_scores: bool | None = None
    for name in set_names(body, RAW_SCORES):
        value = optional_bool(body, name) is RAW_SCORES[name]
        if first is not None and value is not raw_scores:
            raise InvalidRequest(f'"{first}" and "{name}" contradict each other: send only one of them', name)
        first, raw_scores = name, value
    return raw_scores


def _parse_top_n(body: JsonObject) -> int | None:
    """How many results to return; None, also for 0 and -1: all."""
    names = set_names(body, TOP_N)
    values = [optional_int(body, name, minimum=-1) or -1 for name in names]
    for name, value in zip(names, values, strict=True):
        if value != values[0]:
            raise InvalidRequest(f'"{names[0]}" and "{name}" contradict each other: send only one of them', name)
    return values[0] if values and values[0] > 0 else None


def _check_method(request: RerankRequest, raw_scores: bool | None) -> None:
    """Refuse fields of the other method, which would be ignored."""
    if request.method == "rank":
        if request.output is not None or request.use_prompts:
            name = "use_prompts" if request.output is None else "pooling"
            raise InvalidRequest(f'"{name}" needs "method": "embedding": send that too, or leave it out', name)
        return
    if request.label is not None:
        raise InvalidRequest('"label" is for a rank head, and "method": "embedding" has none: leave it out', "label")
    if raw_scores is False:
        raise InvalidRequest(
            '"method": "embedding" always returns cosines, from -1 to 1: leave "raw_scores" out', "raw_scores"
        )


def _parse_list(body: JsonObject, param: str, max_inputs: int) -> list[object]:
    value = body.get(param)
    if not isinstance(value, list) or not value:
        raise wrong_value(param, "a non-empty array of strings, or of objects with a text in them", value)
    check_count(value, param, max_inputs)
    return value


def _parse_rank_fields(body: JsonObject) -> tuple[str, ...]:
    value = body.get("rank_fields")
    if value is None:
        return ("text",)
    if not isinstance(value, list) or not value or not all(isinstance(field, str) for field in value):
        raise InvalidRequest(f'"rank_fields" must be a non-empty string array, found {describe(value)}', "rank_fields")
    return tuple(value)


def _parse_label(body: JsonObject) -> str | None:
    value = body.get("label")
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return optional_str(body, "label")


def _refuse_image(value: object, where: str) -> None:
    """NVIDIA's queries and passages may have an image beside their text, which no reranker here can read."""
    if isinstance(value, dict) and value.get("image") is not None:
        param = where.partition("[")[0]
        raise InvalidRequest(f'"{where}" has an "image", but only text is ranked here: leave it out', param)


def _text_of(document: object, where: str, fields: tuple[str, ...]) -> str:
    """A document's text: the string itself, or an object's `rank_fields` in order, as lines of YAML if several."""
    if isinstance(document, str):
        return document
    if not isinstance(document, dict):
        raise InvalidRequest(
            f'"{where}" must be a string or an object with "text", found {describe(document)}', where.partition("[")[0]
        )
    found = [(field, value) for field in fields if (value := _scalar(document.get(field))) is not None]
    if not found:
        listed = ", ".join(f'"{field}"' for field in fields)
        raise InvalidRequest(
            f'"{where}" has no text in {listed}: name the fields to read in "rank_fields"', where.partition("[")[0]
        )
    return found[0][1] if len(fields) == 1 else "\n".join(f"{field}: {text}" for field, text in found)


def _scalar(value: object) -> str | None:
    match value:
        case str():
            return value
        case bool():
            return "true" if value else "false"
        case int() | float():
            return str(value)
        case _:
            return None


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
