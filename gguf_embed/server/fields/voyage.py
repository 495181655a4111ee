"""What Voyage's API adds to OpenAI's and Jina's: the message of an error once more as `detail`.

Its client sends no header by which to know it, but `truncation` in every body. It raises its own errors, and retries
a 429, only if a body has `detail`. It takes a 501 for an answer, so that what is not supported is a 400.
"""

from __future__ import annotations

from gguf_embed.errors import EmbedError
from gguf_embed.server.context import ErrorFormat

VOYAGE_FIELDS = frozenset({"truncation", "top_k"})
"""A body with one of them, also with null, is Voyage's."""


def with_detail(errors: ErrorFormat) -> ErrorFormat:
    """The same format, with `detail` beside `error`, and 400 for 501."""

    def shape(error: EmbedError, message: str, status: int) -> tuple[int, object]:
        status, body = errors.shape(error, message, status)
        assert isinstance(body, dict)
        return (400 if status == 501 else status), {**body, "detail": message}

    return ErrorFormat(shape, errors.words)
