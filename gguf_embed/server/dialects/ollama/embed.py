"""Ollama's `/api/embed` and the older `/api/embeddings`: JSON → `EmbedRequest`, `EmbedResult` → JSON."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np
import orjson
from aiohttp import web

from gguf_embed.errors import InvalidRequest, ModelNotFound
from gguf_embed.gguf_file.constants import VocabularyType
from gguf_embed.server.context import ServerContext
from gguf_embed.server.dialects.ollama.model_names import MODEL, missing_as, required_name
from gguf_embed.server.dialects.ollama.options import (
    LOAD_OPTIONS,
    parse_keep_alive,
    parse_load_options,
)
from gguf_embed.server.dialects.ollama.requests import PROMPT_TEXT
from gguf_embed.server.fields import aliases, output_types
from gguf_embed.server.fields.embed_fields import NORMALIZE
from gguf_embed.server.fields.entries import parse_strings
from gguf_embed.server.fields.options import refuse_elsewhere
from gguf_embed.server.fields.outputs import check_output, rows_of
from gguf_embed.server.fields.prompt_prefix import (
    format_applied_prompt,
    parse_prompt_choice,
)
from gguf_embed.server.fields.truncation import format_truncation, parse_cutting
from gguf_embed.server.http.body import embed_response, json_response, read_json_object
from gguf_embed.server.http.values import JsonObject, describe, whole_number
from gguf_embed.types import DENSE, SCORES, EmbedRequest, EmbedResult, ModelInfo

_NOT_FOUND = 'model "{}" not found, try pulling it first'
_RAW_ARCHITECTURES = ("nomic-bert", "nomic-bert-moe")


@dataclass(frozen=True, slots=True)
class OllamaEmbed:
    """A parsed body. Without inputs, it asks to load or unload the model."""

    name: str  # the model's name, as the client wrote it
    request: EmbedRequest
    as_prompt: bool = False  # the text came in the field `prompt`


async def embed(context: ServerContext, request: web.Request) -> web.StreamResponse:
    """`POST /api/embed`: vectors of length 1."""
    started_s = time.perf_counter()
    parsed = parse_embed(await read_json_object(context, request), context.options.max_inputs)
    info = _find(context, parsed.name)
    if not parsed.request.inputs:
        await _load_or_unload(context, parsed)
        return json_response(orjson.dumps({"model": parsed.name, "embeddings": []}))
    result = await context.embed(replace(parsed.request, dimensions=_dimensions_within(parsed.request, info)))
    duration_s = time.perf_counter() - started_s
    return embed_response(format_embed(parsed, result, duration_s), result.truncated)


async def embeddings(context: ServerContext, request: web.Request) -> web.StreamResponse:
    """`POST /api/embeddings`: one vector, normalized or not exactly as Ollama does it for this model."""
    parsed = parse_embeddings(await read_json_object(context, request))
    info = _find(context, parsed.name)
    if not parsed.request.inputs:
        await _load_or_unload(context, parsed)
        return json_response(b'{"embedding":[]}')
    result = await context.embed(replace(parsed.request, embd_normalize=legacy_normalize(info)))
    return embed_response(format_embeddings(result), result.truncated)


def _find(context: ServerContext, name: str) -> ModelInfo:
    with missing_as(_NOT_FOUND, name):
        info = context.service.resolve(name, strict=True).info
    check_output(info.output, (DENSE, SCORES), on_request=True)  # a 400 in Ollama, too; the service refuses scores
    return info


async def _load_or_unload(context: ServerContext, parsed: OllamaEmbed) -> None:
    keep_alive_s = parsed.request.keep_alive_s
    if keep_alive_s == 0:
        await context.service.unload(parsed.name)
    else:
        await context.service.load(parsed.name, keep_alive_s=keep_alive_s, options=parsed.request.load)


def _dimensions_within(request: EmbedRequest, info: ModelInfo) -> int | None:
    """Ollama does not cut the vector if the request asks for more dimensions than it has."""
    wanted = request.dimensions
    return wanted if wanted is not None and wanted < info.n_embd else None


def parse_embed(body: JsonObject, max_inputs: int) -> OllamaEmbed:
    """Parse a body of `/api/embed`. Raises `InvalidRequest` naming the field, `ModelNotFound` without a model's name.

    Without `input`, `prompt` is the text, and load options may be top-level fields: ollama-toolkit sends them so.
    With a different `input`, `prompt` is a prefix, see `fields/prompt_prefix.py`.
    """
    name = MODEL.read(body)
    if not name:
        raise ModelNotFound("model '' not found: \"model\" must name one")  # a 404 in Ollama, too
    _refuse_fields(body)
    param = aliases.inputs_field(body, ("input",))
    as_prompt = _is_text(body.get("prompt"), body.get(param))
    options = body.get("options")
    if as_prompt:
        top_level = {option: body[option] for option in LOAD_OPTIONS if option in body}
        if options is None:
            options = top_level
        elif isinstance(options, dict):
            options = {**top_level, **options}
    cutting = parse_cutting(body, default=True)
    request = EmbedRequest(
        inputs=_parse_inputs(body, "prompt" if as_prompt else param, max_inputs),
        model=name,
        embd_normalize=2,
        dimensions=_parse_dimensions(body),
        truncate=cutting.truncate,
        max_tokens=cutting.max_tokens,
        cut_start=cutting.cut_start,
        prompt=parse_prompt_choice(body, prompt_is_text=not as_prompt),
        strict_name=True,
        keep_alive_s=parse_keep_alive(body.get("keep_alive")),
        load=parse_load_options(options),
    )
    return OllamaEmbed(name, request, as_prompt)


def _is_text(prompt: object, given: object) -> bool:
    """Whether `prompt` is the text itself. Some clients send it in both fields, for old and new versions of Ollama."""
    return prompt is not None and (given is None or (isinstance(prompt, str) and given in (prompt, [prompt])))


def parse_embeddings(body: JsonObject) -> OllamaEmbed:
    """Parse a body of `/api/embeddings`: one text, `prompt` or what other routes call it. Raises `InvalidRequest`."""
    name = required_name(body, MODEL)
    _refuse_fields(body)
    if aliases.set_names(body, aliases.DIMENSIONS):
        raise InvalidRequest(
            '"dimensions" is not supported on /api/embeddings: send it to POST /api/embed', aliases.DIMENSIONS[0]
        )
    text = _one_text(body)
    cutting = parse_cutting(body, default=True)
    request = EmbedRequest(
        inputs=(text,) if text else (),
        model=name,
        truncate=cutting.truncate,
        max_tokens=cutting.max_tokens,
        cut_start=cutting.cut_start,
        prompt=parse_prompt_choice(body, prompt_is_text=False),
        strict_name=True,
        keep_alive_s=parse_keep_alive(body.get("keep_alive")),
        load=parse_load_options(body.get("options")),
    )
    return OllamaEmbed(name, request)


def _refuse_fields(body: JsonObject) -> None:
    """Refuse what these routes do not support. Raises `InvalidRequest`."""
    aliases.refuse_lost_text(body, "prompt")
    refuse_elsewhere(body, (*output_types.FIELDS, "pooling", "embd_normalize"))
    if NORMALIZE.read(body) is False:
        raise InvalidRequest('"normalize" is not supported on this route: use POST /embedding', "normalize")


def _one_text(body: JsonObject) -> str | None:
    """The text; None or "" without one."""
    field = aliases.inputs_field({**body, "prompt": None} if body.get("prompt") == "" else body, ("prompt",))
    value = body.get(field)
    if field == "prompt" or isinstance(value, str):
        return None if value is None else PROMPT_TEXT.parse(value, field)
    if value == []:
        return None
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str):
        return value[0]
    raise InvalidRequest(
        f'"{field}" must be one text, because /api/embeddings returns one vector, found {describe(value)}: '
        "send several texts to POST /api/embed",
        field,
    )


def _parse_inputs(body: JsonObject, param: str, max_inputs: int) -> tuple[str, ...]:
    """A string, or an array of strings. "", [] and a missing field mean no input."""
    match value := body.get(param):
        case None | "":
            return ()
        case str():
            return (value,)
        case list():
            return _parse_texts(value, param, max_inputs)
        case _:
            raise InvalidRequest(f'invalid input type: "{param}" must be a string or strings, found {describe(value)}')


def _parse_texts(value: list[object], param: str, max_inputs: int) -> tuple[str, ...]:
    if len(value) > max_inputs:
        raise InvalidRequest(
            f'"{param}" has {len(value)} entries, the limit per request is {max_inputs}: send several requests', param
        )
    try:
        return parse_strings(value, param)
    except InvalidRequest as error:
        raise InvalidRequest(f"invalid input type: {error.message}", param) from None


def _parse_dimensions(body: JsonObject) -> int | None:
    """None for values that Ollama ignores: missing, 0 and negative."""
    for name in aliases.set_names(body, aliases.DIMENSIONS):
        number = whole_number(body[name])
        if number is None:
            raise InvalidRequest(f'"{name}" must be an integer, found {describe(body[name])}', name)
        if number <= 0:
            body = {other: given for other, given in body.items() if other != name}
    return output_types.parse_dimensions(body)


def legacy_normalize(info: ModelInfo) -> int:
    """-1 (raw) for models whose vectors Ollama's `/api/embeddings` never normalized, else 2.

    Source: llm/llama_server.go, legacyEmbeddingsWereRaw. Its metadata key normalize_embeddings is ignored, because only
    Ollama's own converter writes it.
    """
    is_raw = info.architecture in _RAW_ARCHITECTURES or (
        info.architecture == "bert" and info.vocab_type != VocabularyType.WPM
    )
    return -1 if is_raw else 2


def format_embed(parsed: OllamaEmbed, result: EmbedResult, duration_s: float) -> bytes:
    """Format the reply. `embedding`, `prompt` and `truncated` are our own fields, present only if they apply."""
    vectors = np.ascontiguousarray(rows_of(result.output).matrix)
    reply: dict[str, object] = {
        "model": parsed.name,
        "embeddings": vectors,
        "total_duration": _nanoseconds(duration_s),
        "load_duration": _nanoseconds(result.timings.load_s),
        "prompt_eval_count": result.usage.prompt_tokens,
    }
    if parsed.as_prompt:
        reply["embedding"] = vectors[0]
    return orjson.dumps(reply | _format_details(result), option=orjson.OPT_SERIALIZE_NUMPY)


def format_embeddings(result: EmbedResult) -> bytes:
    """Format the older reply, with float64 numbers, so that they have the same digits as Ollama's."""
    reply: dict[str, object] = {"embedding": rows_of(result.output).matrix[0].astype(np.float64)}
    return orjson.dumps(reply | _format_details(result), option=orjson.OPT_SERIALIZE_NUMPY)


def _format_details(result: EmbedResult) -> dict[str, object]:
    details: dict[str, object] = {}
    if result.prompt is not None:
        details["prompt"] = format_applied_prompt(result.prompt)
    if result.truncated:
        details["truncated"] = [{"index": cut.index, **format_truncation(cut)} for cut in result.truncated]
    return details


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)
