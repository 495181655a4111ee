"""Parses the fields of a rerank request, which all dialects share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

from gguf_embed.errors import InvalidRequest
from gguf_embed.server.fields import aliases
from gguf_embed.server.fields.entries import parse_each
from gguf_embed.server.fields.field import contradiction
from gguf_embed.server.fields.inputs import check_count
from gguf_embed.server.fields.model import MODEL
from gguf_embed.server.fields.options import refuse_elsewhere
from gguf_embed.server.fields.outputs import parse_pooling
from gguf_embed.server.fields.rerank_fields import (
    DOCUMENTS,
    INSTRUCTION,
    MAX_TOKENS_PER_DOC,
    METHOD,
    RAW_SCORES,
    RERANK_POOLING,
    RETURN_DOCUMENTS,
    TEI_DOCUMENTS,
    TOP_N,
    USE_PROMPTS,
)
from gguf_embed.server.fields.truncation import parse_cutting
from gguf_embed.server.http.values import JsonObject, describe, whole_number, wrong_value
from gguf_embed.types import RerankRequest


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
    refuse_elsewhere(body, taken=INSTRUCTION.names)
    param = documents_field(body)
    documents = _parse_list(body, param, max_inputs)
    if param == "passages":
        parse_each(documents, lambda passage, index: _refuse_image(passage, f"passages[{index}]"))
    fields = _parse_rank_fields(body)
    raw_scores, cutting = parse_raw_scores(body), parse_cutting(body, defaults.truncate)
    request = RerankRequest(
        query=query,
        documents=parse_each(documents, lambda document, index: _text_of(document, f"{param}[{index}]", fields)),
        model=MODEL.read(body),
        method=cast(Literal["rank", "embedding"], METHOD.read(body) or "rank"),
        raw_scores=defaults.raw_scores if raw_scores is None else raw_scores,
        label=_parse_label(body),
        truncate=cutting.truncate,
        max_tokens=cutting.max_tokens,
        cut_start=cutting.cut_start,
        max_document_tokens=MAX_TOKENS_PER_DOC.read(body),
        output=parse_pooling(body, RERANK_POOLING),
        use_prompts=USE_PROMPTS.read(body) or False,
        instruction=INSTRUCTION.read(body) or None,
    )
    _check_method(request, raw_scores)
    wants_text = [RETURN_DOCUMENTS.parse(body[name], name) for name in RETURN_DOCUMENTS.given(body)]
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
    """The first name of `DOCUMENTS` that is no flag. Raises `InvalidRequest` for TEI's beside it, or others."""
    found = [name for name in DOCUMENTS.given(body) if not isinstance(body[name], bool)]
    for name in found[1:]:
        if body[name] != body[found[0]] or name == TEI_DOCUMENTS.name:
            raise InvalidRequest(f'"{found[0]}" and "{name}" mean the same here: send only one of them', name)
    return next(iter((*found, *DOCUMENTS.given(body))), "documents")


def parse_raw_scores(body: JsonObject) -> bool | None:
    """Whether scores are the head's own numbers, by any of the names; None if the request does not say."""
    first: str | None = None
    raw_scores: bool | None = None
    for name in RAW_SCORES.given(body):
        value = RAW_SCORES.parse(body[name], name) is aliases.RAW_SCORES[name]
        if first is not None and value is not raw_scores:
            raise contradiction(first, name)
        first, raw_scores = name, value
    return raw_scores


def _parse_top_n(body: JsonObject) -> int | None:
    """How many results to return; None, also for 0 and -1: all."""
    names = TOP_N.given(body)
    values = [TOP_N.parse(body[name], name) or -1 for name in names]
    for name, value in zip(names, values, strict=True):
        if value != values[0]:
            raise contradiction(names[0], name)
    return values[0] if values and values[0] > 0 else None


def _check_method(request: RerankRequest, raw_scores: bool | None) -> None:
    """Refuse fields of the other method, which would be ignored."""
    if request.method == "rank":
        if request.output is not None or request.use_prompts:
            name = "use_prompts" if request.output is None else "pooling"
            raise InvalidRequest(f'"{name}" needs "method": "embedding": send that too, or leave it out', name)
        return
    if request.instruction is not None:
        raise InvalidRequest(
            '"instruction" is for a rank head, and "method": "embedding" has none: leave it out', "instruction"
        )
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
    if value is None or isinstance(value, str):
        return value
    number = whole_number(value)
    if number is None:
        raise InvalidRequest(f'"label" must be a string, found {describe(value)}', "label")
    return str(number)


def _refuse_image(value: object, where: str) -> None:
    """NVIDIA's queries and passages may have an image beside their text, which no reranker here can read."""
    if isinstance(value, dict) and value.get("image") is not None:
        raise InvalidRequest(
            f'"{where}" has an "image": only text is ranked here, leave it out', where.partition("[")[0]
        )


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
