"""Text Embeddings Inference's error object: `{"error": "…", "error_type": "…"}` (router/src/http/server.rs)."""

from __future__ import annotations

from gguf_embed.errors import EmbedError, WayOut
from gguf_embed.server.context import ErrorFormat
from gguf_embed.server.http.errors import WORDS, NoInputs, TooManyInputs

# In TEI, axum answers 422 to a request that it cannot parse. The last five kinds have no type in TEI, nor a body.
SHAPES = {
    "invalid_request": (422, "Validation"),
    "input_too_long": (413, "Validation"),
    "payload_too_large": (413, "Validation"),
    "headers_too_large": (431, "Validation"),
    "overloaded": (429, "Overloaded"),
    "engine": (424, "Backend"),
    "model_load": (424, "Backend"),
    "not_supported": (424, "Backend"),
    "unavailable": (503, "Unhealthy"),
    "deadline_exceeded": (504, "Timeout"),
    "authentication": (401, "Unauthorized"),
    "model_not_found": (404, "NotFound"),
    "not_found": (404, "NotFound"),
    "method_not_allowed": (405, "MethodNotAllowed"),
}
"""Status and `error_type` for each kind of error."""

_WORDS = {
    **WORDS,
    WayOut.EMBED_OPTIONS: "send it to POST /v1/embeddings or POST /embedding",
    WayOut.RERANK: 'use POST /rerank with "texts" for scores',
    WayOut.TOKEN_VECTORS: "use POST /embed_all for one vector per token",
}


def _shape(error: EmbedError, message: str, status: int) -> tuple[int, object]:
    match error:
        case NoInputs():
            status, error_type = 400, "Empty"
        case TooManyInputs():
            status, error_type = 413, "Validation"
        case _:
            status, error_type = SHAPES.get(error.kind, (424 if status >= 500 else status, "Backend"))
    return status, {"error": message, "error_type": error_type}


ERRORS = ErrorFormat(_shape, _WORDS)
