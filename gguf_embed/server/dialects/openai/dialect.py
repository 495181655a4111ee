"""OpenAI's API: embeddings, batches, and the list of models."""

from __future__ import annotations

from importlib import resources

from gguf_embed.server.admin import models
from gguf_embed.server.context import Dialect, Route
from gguf_embed.server.dialects.openai import batches, contextualized, files
from gguf_embed.server.dialects.openai.embeddings import REQUEST, deployment, embeddings
from gguf_embed.server.dialects.openai.multimodal import REQUEST as MULTIMODAL
from gguf_embed.server.dialects.openai.multimodal import multimodal_embeddings
from gguf_embed.server.fields.openai_errors import ERRORS

_ANY = r"{model:[\s\S]+}"
"""A model's name has slashes, and a wrong one may have anything."""

OPENAI = Dialect(
    name="OpenAI",
    routes=(
        Route("POST", "/v1/embeddings", embeddings, "vectors, OpenAI's shape", answer_line=embeddings),
        Route("POST", f"/openai/deployments/{_ANY}/embeddings", deployment, "the same, as Azure's clients send it"),
        Route("POST", "/v1/files", files.upload, "store the input of a batch"),
        Route("GET", "/v1/files", files.list_files, "the stored files"),
        Route("GET", "/v1/files/{file_id}", files.show, "one file"),
        Route("GET", "/v1/files/{file_id}/content", files.content, "its content"),
        Route("DELETE", "/v1/files/{file_id}", files.delete, "delete a file"),
        Route("POST", "/v1/batches", batches.create, "compute all requests of a file in the background"),
        Route("GET", "/v1/batches", batches.list_batches, "the batches, newest first"),
        Route("GET", "/v1/batches/{batch_id}", batches.show, "one batch"),
        Route("POST", "/v1/batches/{batch_id}/cancel", batches.cancel, "stop a batch, and keep what is computed"),
        Route(
            "POST", "/v1/contextualizedembeddings", contextualized.contextualized, "chunks in their document, Voyage's"
        ),
        Route("POST", "/v1/multimodalembeddings", multimodal_embeddings, "vectors of texts and images, Voyage's shape"),
        Route("GET", "/v1/models", models.models, "the served model"),
        Route("GET", f"/v1/models/{_ANY}", models.model, "one model by name"),
    ),
    errors=ERRORS,
    error_schema="OpenAIError",
    openapi=(resources.files(__package__) / "openapi.toml",),
    bodies=(REQUEST, contextualized.REQUEST, MULTIMODAL),
)
