"""Ollama's API."""

from __future__ import annotations

from importlib.resources import files

from gguf_embed.server.context import Dialect, Route
from gguf_embed.server.dialects.ollama.embed import EMBED, EMBEDDINGS, embed, embeddings
from gguf_embed.server.dialects.ollama.errors import ERRORS
from gguf_embed.server.dialects.ollama.model_names import COPY, NAMED
from gguf_embed.server.dialects.ollama.models import ps, show, tags
from gguf_embed.server.dialects.ollama.pull import REQUEST, copy, delete, pull
from gguf_embed.server.dialects.ollama.version import refuse, version

OLLAMA = Dialect(
    name="Ollama",
    routes=(
        Route("POST", "/api/embed", embed, "vectors, Ollama's shape"),
        Route("POST", "/api/embeddings", embeddings, "one vector, Ollama's older shape"),
        Route("GET", "/api/tags", tags, "the models"),
        Route("GET", "/api/ps", ps, "the loaded models"),
        Route("POST", "/api/show", show, "one model by name"),
        Route("POST", "/api/pull", pull, "download a model"),
        Route("POST", "/api/copy", copy, "give a model another name"),
        Route("DELETE", "/api/delete", delete, "remove a pulled model"),
        Route("GET", "/api/version", version, "this server's version"),
        *(
            Route("POST", path, refuse, "501: not supported, this server only embeds")
            for path in ("/api/generate", "/api/chat", "/api/create", "/api/push", "/api/blobs/{digest}")
        ),
    ),
    errors=ERRORS,
    error_schema="OllamaError",
    openapi=(files(__package__) / "openapi.toml",),
    bodies=(EMBED, EMBEDDINGS, NAMED, REQUEST, COPY),
    path_prefix="/api/",
)
