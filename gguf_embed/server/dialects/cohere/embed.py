"""Cohere's `/v2/embed` and `/v1/embed`: JSON → `EmbedRequest`, `EmbedResult` → JSON."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

import orjson
from aiohttp import web

from gguf_embed.errors import InvalidRequest
from gguf_embed.images.checks import image_size
from gguf_embed.images.webp import is_webp
from gguf_embed.server.context import ServerContext
from gguf_embed.server.fields import aliases
from gguf_embed.server.fields.embed_fields import NORMALIZE
from gguf_embed.server.fields.entries import parse_each, parse_strings
from gguf_embed.server.fields.field import Body, Json, Shaped, has
from gguf_embed.server.fields.images import take_images
from gguf_embed.server.fields.inputs import check_count
from gguf_embed.server.fields.model import MODEL
from gguf_embed.server.fields.options import refuse_elsewhere
from gguf_embed.server.fields.output_types import (
    DIMENSIONS,
    ENCODING_FORMAT,
    OUTPUT_TYPE,
    OutputType,
    check_output_types,
    parse_dimensions,
    parse_output_types,
    write_matrix,
)
from gguf_embed.server.fields.outputs import check_output, rows_of
from gguf_embed.server.fields.prompt_prefix import PROMPT_FIELDS, format_applied_prompt, parse_prompt_choice
from gguf_embed.server.fields.truncation import CUTTING_FIELDS, format_truncation, parse_cutting
from gguf_embed.server.fields.urgency import URGENCY_FIELDS
from gguf_embed.server.http.body import embed_response, read_json_object
from gguf_embed.server.http.values import JsonObject, describe, wrong_value
from gguf_embed.types import DENSE, SCORES, EmbedRequest, EmbedResult, ImageInput, ModelInfo

_FLOAT = OutputType("float", "float", base64=False)

_TEXTS: Json = {"type": "array", "items": {"type": "string"}}
_SOME: Json = {"type": "array", "minItems": 1}
REQUEST = Body(
    "CohereEmbedRequest",
    (
        Shaped(
            "texts",
            "The texts; 2,048 at most (`--max-inputs`).",
            also=aliases.texts_besides("texts", "inputs"),
            default="required",
            see="Inputs",
            shape=_TEXTS,
        ),
        Shaped(
            "inputs",
            'Instead of `texts`: objects with a text or an image each, `{"content": [{"type": "text", "text": "…"}]}`.',
            see="Images",
            shape={"anyOf": [_TEXTS, {"type": "array", "items": {"ref": "ContentParts"}}]},
        ),
        Shaped(
            "images",
            "Instead of `texts`: images as data URLs or base64, for a model that reads them.",
            see="Images",
            shape=_TEXTS,
        ),
        MODEL,
        replace(OUTPUT_TYPE.called("embedding_types"), default='`["float"]`'),
        DIMENSIONS.called("output_dimension"),
        ENCODING_FORMAT,
    ),
    "Exactly one of `texts`, `inputs` and `images` is required; empty arrays count as absent.",
    groups=(PROMPT_FIELDS, replace(CUTTING_FIELDS, default='`"END"`'), URGENCY_FIELDS),
    rules={"oneOf": [has({"texts": _SOME}), has({"inputs": _SOME}), has({"images": _SOME})]},
)


@dataclass(frozen=True, slots=True)
class CohereEmbed:
    """A parsed body: what to compute, and how to format the reply."""

    request: EmbedRequest
    texts: tuple[str, ...]  # as the client sent them, for the reply
    output_types: tuple[OutputType, ...]  # (): not requested; version 1 then returns plain floats
    images: tuple[ImageInput, ...] = ()


async def embed(context: ServerContext, request: web.Request) -> web.Response:
    """`POST /v2/embed`: vectors by type."""
    return await _answer(context, await read_json_object(context, request), version=2)


async def embed_v1(context: ServerContext, request: web.Request) -> web.Response:
    """`POST /v1/embed`: vectors by type, or plain floats if no types are requested."""
    return await _answer(context, await read_json_object(context, request), version=1)


async def _answer(context: ServerContext, body: JsonObject, version: int) -> web.Response:
    images: tuple[ImageInput, ...] = ()
    if has_images(body):
        field, asked = as_objects(body)
        plain, images = await take_images(context, asked, field)
        body = {name: value for name, value in plain.items() if name != field} | {"inputs": plain[field]}
    parsed = parse_cohere_embed(body, context.options.max_inputs)
    parsed = replace(parsed, images=images, request=replace(parsed.request, images=images))

    def check(info: ModelInfo) -> None:
        check_output(info.output, (DENSE, SCORES), on_request=False)  # the service refuses scores
        check_output_types(parsed.output_types, info.output, embd_normalize=2)

    result = await context.embed(parsed.request, check)
    return embed_response(format_cohere_embed(parsed, result, version), result.truncated)


def parse_cohere_embed(body: JsonObject, max_inputs: int) -> CohereEmbed:
    """Read a request body. Raises `InvalidRequest` naming the field, `NotSupported` for images."""
    refuse_elsewhere(body, ("pooling", "embd_normalize"))
    if NORMALIZE.read(body) is False:
        raise InvalidRequest('"normalize" must be true here: vectors of this route have length 1', "normalize")
    _images_of(body)
    ENCODING_FORMAT.read(body)
    cutting = parse_cutting(body, default=True)
    texts = _parse_texts(body, max_inputs)
    _refuse_two(body)
    request = EmbedRequest(
        inputs=texts,
        model=MODEL.read(body),
        embd_normalize=2,
        dimensions=parse_dimensions(body),
        truncate=cutting.truncate,
        max_tokens=cutting.max_tokens,
        cut_start=cutting.cut_start,
        prompt=parse_prompt_choice(body),
    )
    return CohereEmbed(request, texts, parse_output_types(body))


def _parse_texts(body: JsonObject, max_inputs: int) -> tuple[str, ...]:
    field = aliases.inputs_field(body, ("texts",))
    value = body.get(field)
    if isinstance(value, str) and field not in ("texts", "inputs"):
        value = [value]
    if not isinstance(value, list):
        raise wrong_value(field, f"an array of {'objects' if field == 'inputs' else 'strings'}", value)
    is_objects = field == "inputs" and not (value and isinstance(value[0], str))
    texts = parse_each(value, _text_of) if is_objects else parse_strings(value, field)
    check_count(texts, field, max_inputs)
    return texts


def _text_of(entry: object, index: int) -> str:
    """The text of `{"content": [{"type": "text", "text": "…"}]}`. Raises for anything else."""
    match entry:
        case {"content": [{"type": "text", "text": str(text)}]}:
            return text
        case {"content": content}:
            raise InvalidRequest(
                f'"inputs[{index}].content" must be one part {{"type": "text", "text": "…"}}, found '
                f"{describe(content)}: join the texts, or send one input for each",
                "inputs",
            )
        case _:
            raise InvalidRequest(
                f'"inputs[{index}]" must be an object with "content", found {describe(entry)}', "inputs"
            )


def has_images(body: JsonObject) -> bool:
    """Whether the body has `images`, or an image among its `inputs`."""
    if body.get("images"):
        return True
    inputs = body.get("inputs")
    contents = (entry.get("content") for entry in inputs if isinstance(entry, dict)) if isinstance(inputs, list) else ()
    parts = (part for content in contents if isinstance(content, list) for part in content)
    return any(isinstance(part, dict) and part.get("type") not in (None, "text") for part in parts)


def as_objects(body: JsonObject) -> tuple[str, JsonObject]:
    """The field with images, and the body with an object for each of them. Raises `InvalidRequest` for two fields."""
    _refuse_two(body)
    is_image = str(body.get("input_type")).lower() == "image"  # no prompt is put before an image
    rest = {name: value for name, value in body.items() if not (is_image and name == "input_type")}
    images = _images_of(body)
    if not images:
        return "inputs", rest
    return "images", rest | {"images": [{"image": image} for image in images]}


def _images_of(body: JsonObject) -> list[object]:
    """Empty if there are none. Raises `InvalidRequest` for anything but an array."""
    images = body.get("images")
    if not (images is None or isinstance(images, list)):
        raise wrong_value("images", "an array of strings", images)
    return images or []


def _refuse_two(body: JsonObject) -> None:
    given = [name for name in ("images", "inputs", "texts") if body.get(name)]
    if len(given) > 1:
        raise InvalidRequest(f'"{given[0]}" and "{given[1]}" cannot be sent together: send one of them', given[1])


def _texts_alone(parsed: CohereEmbed) -> list[str]:
    """The texts of a request with images, where each of these is an empty one."""
    with_images = {image.index for image in parsed.images}
    return [text for index, text in enumerate(parsed.texts) if index not in with_images]


def _described(data: bytes) -> dict[str, object]:
    width, height = image_size(data, "an image")
    is_png = data.startswith(b"\x89PNG")
    return {
        "width": width,
        "height": height,
        "format": "png" if is_png else "webp" if is_webp(data) else "jpeg",
        "bit_depth": data[24] if is_png else 8,
    }


def format_cohere_embed(parsed: CohereEmbed, result: EmbedResult, version: int) -> bytes:
    """Format the reply. `prompt` and `truncated` are our own fields, present only if they apply."""
    bare = version == 1 and not parsed.output_types
    vectors = rows_of(result.output).matrix
    types: Sequence[OutputType] = parsed.output_types or (_FLOAT,)
    meta: dict[str, object] = {
        "api_version": {"version": str(version)},
        "billed_units": {"input_tokens": result.usage.prompt_tokens},
    }
    reply: dict[str, object] = {
        "id": os.urandom(12).hex(),
        "response_type": "embeddings_floats" if bare else "embeddings_by_type",
        "embeddings": {output.name: write_matrix(vectors, (output,)) for output in types},
        "texts": parsed.texts if not parsed.images else _texts_alone(parsed),
        "meta": meta,
    }
    if parsed.images:
        files = [part for image in parsed.images for part in image.parts if isinstance(part, bytes)]
        reply["images"] = [_described(data) for data in files]
    if bare:
        reply["embeddings"] = write_matrix(vectors, types)
    if result.prompt is not None:
        reply["prompt"] = format_applied_prompt(result.prompt)
    if result.truncated:
        meta["warnings"] = [
            f"text {cut.index} was cut: {cut.n_kept} of {cut.n_tokens} tokens were read" for cut in result.truncated
        ]
        reply["truncated"] = [{"index": cut.index, **format_truncation(cut)} for cut in result.truncated]
    return orjson.dumps(reply, option=orjson.OPT_SERIALIZE_NUMPY)
