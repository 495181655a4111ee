"""`POST /similarity` with `texts`: all of them compared with each other, as a matrix or as the pairs most alike."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from dataclasses import dataclass

import orjson
from aiohttp import web

from gguf_embed.errors import InvalidRequest
from gguf_embed.server.context import ServerContext
from gguf_embed.server.fields import output_types
from gguf_embed.server.fields.entries import parse_strings
from gguf_embed.server.fields.field import Body, Shaped, Whole
from gguf_embed.server.fields.inputs import check_count
from gguf_embed.server.fields.model import MODEL
from gguf_embed.server.fields.options import refuse_elsewhere
from gguf_embed.server.fields.output_types import DIMENSIONS, parse_dimensions
from gguf_embed.server.fields.outputs import check_output, rows_of
from gguf_embed.server.fields.prompt_prefix import PROMPT_FIELDS, parse_prompt_choice
from gguf_embed.server.fields.truncation import CUTTING_FIELDS, parse_cutting
from gguf_embed.server.fields.urgency import URGENCY_FIELDS
from gguf_embed.server.http.body import embed_response
from gguf_embed.server.http.values import JsonObject, describe, wrong_value
from gguf_embed.types import DENSE, SCORES, EmbedRequest, EmbedResult, FloatMatrix, ModelInfo
from gguf_embed.vectors.pairs import BLOCK_ROWS, SimilarPairs, cosine_rows, similar_pairs

MAX_PAIRS = 100_000
_TAKEN = ("texts", "sentences", "top_k")
"""Names that other routes have for other fields."""

TEXTS = Shaped(
    "texts",
    "The texts, each of which is compared with all others.",
    also=("sentences",),
    required=True,
    shape={"type": "array", "items": {"type": "string"}, "minItems": 1},
)
TOP_K = Whole(
    "top_k",
    "Return the N pairs that are most alike, instead of the matrix.",
    minimum=1,
    maximum=MAX_PAIRS,
    default=f"{MAX_PAIRS:,}",
)
THRESHOLD = Shaped(
    "threshold",
    "Return the pairs with at least this cosine, instead of the matrix.",
    shape={"type": "number", "minimum": -1, "maximum": 1},
)
PAIRS = Body(
    "SimilarPairsRequest",
    (TEXTS, TOP_K, THRESHOLD, DIMENSIONS, MODEL),
    groups=(PROMPT_FIELDS, CUTTING_FIELDS, URGENCY_FIELDS),
)


@dataclass(frozen=True, slots=True)
class PairsRequest:
    """A parsed body. Without `top_k` and `threshold`, the matrix is asked for."""

    texts: EmbedRequest
    top_k: int | None
    threshold: float | None


def wants_pairs(body: JsonObject) -> bool:
    """Whether a body of `/similarity` is of this form, not of TEI's."""
    return body.get("inputs") is None and bool(TEXTS.given(body)) and "source_sentence" not in body


async def answer_pairs(context: ServerContext, body: JsonObject) -> web.Response:
    asked = parse_pairs(body, context.options.max_inputs)
    result = await context.embed(asked.texts, _check_model)
    units = rows_of(result.output).matrix
    if asked.top_k is None and asked.threshold is None:
        return embed_response(_matrix(result, units), result.truncated)
    top_k, threshold = asked.top_k or MAX_PAIRS, -1.0 if asked.threshold is None else asked.threshold
    return embed_response(
        await asyncio.to_thread(lambda: _written(result, similar_pairs(units, top_k, threshold))), result.truncated
    )


def _check_model(info: ModelInfo) -> None:
    check_output(info.output, (DENSE, SCORES), on_request=False)  # the service refuses scores


def parse_pairs(body: JsonObject, max_inputs: int) -> PairsRequest:
    """Raises `InvalidRequest` naming the field."""
    refuse_elsewhere(body, (*(set(output_types.FIELDS) - set(DIMENSIONS.names)), "pooling", "embd_normalize"), _TAKEN)
    name, *others = TEXTS.given(body) or [TEXTS.name]
    texts = body.get(name)
    if not isinstance(texts, list):
        raise wrong_value(name, "an array of strings", texts)
    if any(body[other] != texts for other in others):
        raise InvalidRequest(f'"{name}" and "{others[0]}" mean the same here: send only one of them', others[0])
    check_count(texts, name, max_inputs)
    inputs = parse_strings(texts, name)
    cutting = parse_cutting(body)
    request = EmbedRequest(
        inputs=inputs,
        model=MODEL.read(body),
        embd_normalize=2,
        dimensions=parse_dimensions(body),
        truncate=cutting.truncate,
        max_tokens=cutting.max_tokens,
        cut_start=cutting.cut_start,
        prompt=parse_prompt_choice(body),
    )
    return PairsRequest(request, TOP_K.read(body), _threshold(body.get(THRESHOLD.name)))


def _threshold(value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, (int, float)) and not isinstance(value, bool) and -1 <= value <= 1 and math.isfinite(value):
        return float(value)
    raise InvalidRequest(f'"threshold" must be a number from -1 to 1, found {describe(value)}', THRESHOLD.name)


def _head(result: EmbedResult) -> dict[str, object]:
    n_tokens = result.usage.prompt_tokens
    return {"model": result.model.name, "usage": {"prompt_tokens": n_tokens, "total_tokens": n_tokens}}


def _written(result: EmbedResult, found: SimilarPairs) -> bytes:
    pairs = zip(found.first.tolist(), found.second.tolist(), found.scores.tolist(), strict=True)
    listed = [{"first": first, "second": second, "score": score} for first, second, score in pairs]
    return orjson.dumps(_head(result) | {"n_found": found.n_found, "pairs": listed})


async def _matrix(result: EmbedResult, units: FloatMatrix) -> AsyncIterator[bytes]:
    """The reply in parts: 2,000 texts have 4 million cosines, which take 40 MB."""
    yield orjson.dumps(_head(result))[:-1] + b',"matrix":['
    for begin in range(0, len(units), BLOCK_ROWS):
        rows = await asyncio.to_thread(_written_rows, units, begin)
        yield (b"," if begin else b"") + rows
    yield b"]}"


def _written_rows(units: FloatMatrix, begin: int) -> bytes:
    return orjson.dumps(cosine_rows(units, begin, begin + BLOCK_ROWS), option=orjson.OPT_SERIALIZE_NUMPY)[1:-1]
