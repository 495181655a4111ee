"""llama-server's API, rerank and the server's own routes: what has no other dialect's errors has these."""

from __future__ import annotations

from importlib.resources import files

from gguf_embed.server.admin import health, index, metrics, models
from gguf_embed.server.context import Dialect, Route
from gguf_embed.server.dialects.llama.embedding import REQUEST, embedding
from gguf_embed.server.dialects.llama.errors import ERRORS
from gguf_embed.server.dialects.llama.ranking import RANKING, rank
from gguf_embed.server.dialects.llama.rerank import rerank
from gguf_embed.server.dialects.llama.tokenize import DETOKENIZE, TOKENIZE, detokenize, tokenize
from gguf_embed.server.dialects.openai.embeddings import unversioned
from gguf_embed.server.docs import openapi, reference
from gguf_embed.server.fields.rerank_fields import RERANK_REQUEST

LLAMA = Dialect(
    name="llama.cpp",
    routes=(
        Route("POST", "/embedding", embedding, "vectors or one row per token, llama.cpp's shape"),
        Route("POST", "/embeddings", unversioned, "the same, OpenAI's shape for a body with model and input"),
        Route("POST", "/rerank", rerank, "scores of documents for a query, Jina's or TEI's shape"),
        Route("POST", "/reranking", rerank, "the same"),
        Route("POST", "/v1/rerank", rerank, "the same", answer_line=rerank),
        Route("POST", "/v1/reranking", rerank, "the same"),
        Route("POST", "/v1/ranking", rank, "the same for passages, NVIDIA's shape"),
        Route("POST", "/tokenize", tokenize, "text to token ids"),
        Route("POST", "/detokenize", detokenize, "token ids to text"),
        Route("GET", "/models", models.models, "the served model"),
        Route("GET", "/props", models.props, "pooling, dimensions, limits"),
        Route("GET", "/metrics", metrics.metrics, "counters and timings for Prometheus"),
        Route("GET", "/version", metrics.version, "this server's version"),
        Route("GET", "/health", health.health, "200 when requests are answered, else 503", auth_required=False),
        Route("GET", "/v1/health", health.health, "the same", auth_required=False),
        Route("GET", "/ready", health.ready, "the same, with what waits and runs", auth_required=False),
        Route("GET", "/", index.root, "this text; in a browser a page to try the models", auth_required=False),
        Route("GET", "/docs", reference.docs, "all routes, for people", auth_required=False),
        Route("GET", "/openapi.json", openapi.openapi_json, "all routes, for programs (OpenAPI)", auth_required=False),
    ),
    errors=ERRORS,
    error_schema="LlamaError",
    openapi=(files(__package__) / "openapi.toml", files("gguf_embed.server.admin") / "openapi.toml"),
    bodies=(REQUEST, RERANK_REQUEST, RANKING, TOKENIZE, DETOKENIZE),
)
