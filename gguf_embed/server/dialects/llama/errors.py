"""llama-server's error object: `{"error": {"code", "message", "type"}}`."""

from __future__ import annotations

from collections.abc import Mapping

from gguf_embed.errors import EmbedError, WayOut
from gguf_embed.server.context import ErrorFormat
from gguf_embed.server.fields.error_position import position_of
from gguf_embed.server.fields.words import EMBED_FIELD_WORDS

TYPES: Mapping[str, str] = {
    "invalid_request": "invalid_request_error",
    "input_too_long": "exceed_context_size_error",
    "authentication": "authentication_error",
    "permission": "permission_error",
    "model_not_found": "not_found_error",
    "not_found": "not_found_error",
    "no_such_object": "not_found_error",
    "method_not_allowed": "invalid_request_error",
    "payload_too_large": "invalid_request_error",
    "headers_too_large": "invalid_request_error",
    "overloaded": "unavailable_error",
    "engine": "server_error",
    "model_load": "server_error",
    "pull_failed": "server_error",
    "not_supported": "not_supported_error",
    "unavailable": "unavailable_error",
    "deadline_exceeded": "server_error",
}
"""llama-server's `type` for each kind of error."""

_WORDS = {
    **EMBED_FIELD_WORDS,
    WayOut.TRUNCATE_DOCUMENT: 'send "truncate": true to have the document cut (or start the server with --truncate)',
    WayOut.RERANK: "use POST /rerank for scores",
    WayOut.TOKEN_VECTORS: 'send "pooling": "none" to POST /embedding for one vector per token',
}


def error_object(error: EmbedError, message: str, status: int) -> dict[str, object]:
    """The value of `error`."""
    return {"code": status, "message": message, "type": TYPES[error.kind]} | position_of(error)


def _shape(error: EmbedError, message: str, status: int) -> tuple[int, object]:
    return status, {"error": error_object(error, message, status)}


ERRORS = ErrorFormat(_shape, _WORDS)
