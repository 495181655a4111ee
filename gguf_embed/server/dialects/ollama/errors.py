"""Ollama's error object: `{"error": "…"}`.

Clients search for some of Ollama's own messages, so ours are appended to these (ollama: server/sched.go ErrMaxQueue,
server/routes.go handleScheduleError, llm/llama_server.go).
"""

from __future__ import annotations

from gguf_embed.errors import EmbedError, WayOut
from gguf_embed.server.context import ErrorFormat
from gguf_embed.server.http.errors import WORDS

_STATUSES = {"overloaded": 503}
_SENTENCES = {
    "overloaded": "server busy, please try again.  maximum pending requests exceeded",
    "input_too_long": "the input length exceeds the context length",
}


def _shape(error: EmbedError, message: str, status: int) -> tuple[int, object]:
    sentence = _SENTENCES.get(error.kind)
    text = f"{sentence}: {message}" if sentence else message
    return _STATUSES.get(error.kind, status), {"error": text}


ERRORS = ErrorFormat(_shape, {**WORDS, WayOut.LARGER_CONTEXT: 'send a larger "num_ctx"'})
