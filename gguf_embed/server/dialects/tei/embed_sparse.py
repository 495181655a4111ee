"""Text Embeddings Inference's `/embed_sparse`: JSON → `EmbedRequest`, sparse vectors → JSON."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import orjson
from aiohttp import web

from gguf_embed.server.context import ServerContext
from gguf_embed.server.dialects.tei.embed import REQUEST, parse_embed
from gguf_embed.server.fields.embed_fields import NORMALIZE
from gguf_embed.server.fields.head_outputs import write_sparse_pairs
from gguf_embed.server.fields.options import refuse_elsewhere
from gguf_embed.server.fields.output_types import DIMENSIONS
from gguf_embed.server.http.body import embed_response, read_json_object
from gguf_embed.types import SPARSE, EmbedResult, OutputSpec

DENSE_FIELDS = (*NORMALIZE.names, *DIMENSIONS.names)
SPARSE_REQUEST = replace(
    REQUEST,
    name="TeiSparseRequest",
    fields=tuple(field for field in REQUEST.fields if field.name not in DENSE_FIELDS),
)


async def embed_sparse(context: ServerContext, request: web.Request) -> web.Response:
    """`POST /embed_sparse`: `[[{"index": …, "value": …}, …], …]`, the weights of each input's vocabulary entries."""
    body = await read_json_object(context, request)
    refuse_elsewhere(body, DENSE_FIELDS)
    result = await context.embed(parse_embed(body, context.options.max_inputs, OutputSpec(SPARSE)))
    return embed_response(await asyncio.to_thread(_written, result), result.truncated)


def _written(result: EmbedResult) -> bytes:
    return orjson.dumps(write_sparse_pairs(result.output), option=orjson.OPT_SERIALIZE_NUMPY)
