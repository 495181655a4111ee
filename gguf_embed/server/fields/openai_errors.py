"""OpenAI's error object: `{"error": {"message", "type", "param", "code"}}`."""

from __future__ import annotations

from collections.abc import Mapping

from gguf_embed.errors import EmbedError, WayOut
from gguf_embed.server.context import ErrorFormat
from gguf_embed.server.fields.error_position import position_of
from gguf_embed.server.fields.words import EMBED_FIELD_WORDS
from gguf_embed.server.http.errors import param_of

TYPES: Mapping[str, tuple[str, str]] = {
    "invalid_request": ("invalid_request_error", "invalid_request"),
    "input_too_long": ("invalid_request_error", "context_length_exceeded"),
    "authentication": ("authentication_error", "invalid_api_key"),
    "permission": ("permission_error", "permission_denied"),
    "model_not_found": ("invalid_request_error", "model_not_found"),
    "not_found": ("invalid_request_error", "unknown_url"),
    "no_such_object": ("invalid_request_error", "not_found"),
    "method_not_allowed": ("invalid_request_error", "method_not_supported"),
    "payload_too_large": ("invalid_request_error", "payload_too_large"),
    "headers_too_large": ("invalid_request_error", "headers_too_large"),
    "overloaded": ("rate_limit_error", "rate_limit_exceeded"),
    "engine": ("server_error", "engine_error"),
    "model_load": ("server_error", "model_load_failed"),
    "pull_failed": ("server_error", "pull_failed"),
    "not_supported": ("not_supported_error", "not_supported"),
    "unavailable": ("unavailable_error", "service_unavailable"),
    "deadline_exceeded": ("server_error", "timeout"),
}
"""OpenAI's `type` and `code` for each kind of error."""

_WORDS = {
    **EMBED_FIELD_WORDS,
    WayOut.OWN_IDS: "send the model's own ids to POST /embedding",
    WayOut.RERANK: "use POST /v1/rerank for scores",
    WayOut.TOKEN_VECTORS: "use POST /embedding for one vector per token",
}


def error_object(error: EmbedError, message: str, status: int) -> dict[str, object]:
    """The value of `error`."""
    kind, code = TYPES[error.kind]
    detail = {"message": message, "type": kind, "param": param_of(error), "code": code}
    return detail | position_of(error)


def _shape(error: EmbedError, message: str, status: int) -> tuple[int, object]:
    return status, {"error": error_object(error, message, status)}


ERRORS = ErrorFormat(_shape, _WORDS)
