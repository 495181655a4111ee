"""Cohere's API: embed and rerank."""

from __future__ import annotations

from importlib.resources import files

from gguf_embed.server.context import Dialect, Route
from gguf_embed.server.dialects.cohere.embed import REQUEST, embed, embed_v1
from gguf_embed.server.dialects.cohere.errors import ERRORS
from gguf_embed.server.dialects.cohere.rerank import rerank
from gguf_embed.server.fields.rerank_fields import RERANK_REQUEST

COHERE = Dialect(
    name="Cohere",
    routes=(
        Route("POST", "/v2/embed", embed, "vectors by type, Cohere's shape"),
        Route("POST", "/v1/embed", embed_v1, "the same, Cohere's older shape"),
        Route("POST", "/v2/rerank", rerank, "scores of documents for a query, Cohere's shape"),
    ),
    errors=ERRORS,
    error_schema="CohereError",
    openapi=(files(__package__) / "openapi.toml",),
    bodies=(REQUEST, RERANK_REQUEST),
)
