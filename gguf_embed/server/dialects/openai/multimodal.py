"""Voyage's `POST /v1/multimodalembeddings`: inputs of texts and images, answered as `/v1/embeddings` does."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from aiohttp import web

from gguf_embed.errors import InvalidRequest
from gguf_embed.images.checks import image_size
from gguf_embed.server.context import ERROR_FORMAT, ServerContext
from gguf_embed.server.dialects.openai.embeddings import (
    VOYAGE_ERRORS,
    OpenAIEmbed,
    format_openai_embed,
    parse_openai_embed,
)
from gguf_embed.server.fields.entries import parse_each
from gguf_embed.server.fields.field import Body, Choice, Shaped
from gguf_embed.server.fields.images import take_images
from gguf_embed.server.fields.model import MODEL
from gguf_embed.server.fields.output_types import DIMENSIONS, OUTPUT_TYPE
from gguf_embed.server.fields.prompt_prefix import INPUT_TYPE
from gguf_embed.server.fields.truncation import CUTTING_FIELDS
from gguf_embed.server.fields.urgency import URGENCY_FIELDS
from gguf_embed.server.http.body import embed_response, read_json_object
from gguf_embed.server.http.values import JsonObject, describe, wrong_value

OUTPUT_ENCODING = Choice(
    "output_encoding", "`base64`: each vector as base64 of little-endian float32.", default="numbers", words=("base64",)
)
_INPUTS = Shaped(
    "inputs",
    "The inputs: objects with `content`, an array of parts. A model with a vector for each text and each image (CLIP) "
    "takes one part per input.",
    required=True,
    see="Images",
    shape={"type": "array", "items": {"ref": "ContentParts"}, "minItems": 1},
)
REQUEST = Body(
    "MultimodalRequest",
    (_INPUTS, MODEL, INPUT_TYPE, OUTPUT_ENCODING, DIMENSIONS.called("output_dimension"), OUTPUT_TYPE),
    groups=(CUTTING_FIELDS, URGENCY_FIELDS),
)


async def multimodal_embeddings(context: ServerContext, request: web.Request) -> web.Response:
    """`POST /v1/multimodalembeddings`."""
    request[ERROR_FORMAT] = VOYAGE_ERRORS
    body = await read_json_object(context, request)
    check_inputs(body)
    plain, images = await take_images(context, body, _INPUTS.name)
    n_pixels = sum(_pixels(part) for image in images for part in image.parts if isinstance(part, bytes))
    parsed = replace(parse_multimodal(plain, context.options.max_inputs), image_pixels=n_pixels)
    result = await context.embed(replace(parsed.request, images=images), parsed.check)
    return embed_response(await asyncio.to_thread(format_openai_embed, result, parsed), result.truncated)


def check_inputs(body: JsonObject) -> None:
    """Raises `InvalidRequest` if the inputs are not objects with `content`."""
    inputs = body.get(_INPUTS.name)
    if not isinstance(inputs, list):
        raise wrong_value(_INPUTS.name, 'an array of objects with "content"', inputs)
    parse_each(inputs, _check_input)


def _check_input(entry: object, index: int) -> None:
    if not isinstance(entry, dict) or "content" not in entry:
        raise InvalidRequest(
            f'"inputs[{index}]" must be an object with "content", found {describe(entry)}', _INPUTS.name
        )


def parse_multimodal(plain: JsonObject, max_inputs: int) -> OpenAIEmbed:
    """Parse a body without its images. Raises `InvalidRequest` naming the field."""
    encoding = OUTPUT_ENCODING.read(plain)
    used = {name: value for name, value in plain.items() if name not in (_INPUTS.name, OUTPUT_ENCODING.name)}
    parsed = parse_openai_embed(used | {"input": plain[_INPUTS.name]}, max_inputs)
    return replace(parsed, encoding_format="float" if encoding is None else "base64")


def _pixels(image: bytes) -> int:
    width, height = image_size(image, "an image")
    return width * height
