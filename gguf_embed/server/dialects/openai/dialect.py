"""OpenAI's API: embeddings, and the list of models."""

from __future__ import annotations

from importlib.resources import files

from gguf_embed.server.admin import models
from gguf_embed.server.context import Dialect, Route
from gguf_embed.server.dialects.openai.embeddings import REQUEST, deployment, embeddings
from gguf_embed.server.dialects.openai.multimodal import REQUEST as MULTIMODAL
from gguf_embed.server.dialects.openai.multimodal import multimodal_embeddings
from gguf_embed.server.fields.openai_errors import ERRORS

OPENAI = Dialect(
    name="OpenAI",
    routes=(
        Route("POST", "/v1/embeddings", embeddings, "vectors, OpenAI's shape"),
        Route("POST", "/openai/deployments/{model:.+}/embeddings", deployment, "the same, as Azure's clients send it"),
        Route("POST", "/v1/multimodalembeddings", multimodal_embeddings, "vectors of texts and images, Voyage's shape"),
        Route("GET", "/v1/models", models.models, "the served model"),
        Route("GET", "/v1/models/{model:.+}", models.model, "one model by name"),
    ),
    errors=ERRORS,
    error_schema="OpenAIError",
    openapi=(files(__package__) / "openapi.toml",),
    bodies=(REQUEST, MULTIMODAL),
)
