"""Cohere's error object: `{"message": "…"}`."""

from __future__ import annotations

from gguf_embed.errors import EmbedError, WayOut
from gguf_embed.server.context import ErrorFormat
from gguf_embed.server.http.errors import WORDS

_WORDS = {
    **WORDS,
    WayOut.TRUNCATE: 'send "truncate": "END" to have it cut',
    WayOut.RERANK: "use POST /v2/rerank for scores",
}


def _shape(error: EmbedError, message: str, status: int) -> tuple[int, object]:
    return status, {"message": message}


ERRORS = ErrorFormat(_shape, _WORDS)
