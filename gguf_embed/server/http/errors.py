"""Maps errors to HTTP statuses. Dialects add the shape of the body, and their own words for the ways out."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import orjson

from gguf_embed.errors import (
    EmbedError,
    EngineFailure,
    InputTooLong,
    InvalidRequest,
    Overloaded,
    Unavailable,
    WayOut,
    describe,
)
from gguf_embed.server.context import ErrorFormat

MAX_HEADER_BYTES = 64 * 1024
"""Limit on the names and values of all headers, and the path."""

_MAX_PATH_SHOWN = 100
_CLOSE = 0.8  # difflib's ratio for one or two different letters in a word
_GENERATION = re.compile(r"\b(chat|completions?|infill|messages|responses|generate|generate_stream)\b")


class RouteNotFound(EmbedError):
    """There is no such route. Suggests a similar one, or says that this server does not generate text."""

    kind = "not_found"

    def __init__(self, path: str, known: Iterable[str] = ()) -> None:
        # a path that is not UTF-8 contains surrogates, which JSON cannot represent
        shown = path[:_MAX_PATH_SHOWN].encode("utf-8", "replace").decode()
        hint = ":"
        if _GENERATION.search(shown):
            hint = ": this server embeds text and does not generate it;"
        elif meant := difflib.get_close_matches(shown, known, n=1, cutoff=_CLOSE):
            hint = f"; did you mean {meant[0]}?"
        super().__init__(f"there is no route {shown}{hint} GET {min(known, key=len, default='/')} lists all routes")


class MethodNotAllowed(EmbedError):
    """The path exists, but not with this method."""

    kind = "method_not_allowed"

    def __init__(self, method: str, path: str, allowed: tuple[str, ...]) -> None:
        super().__init__(f"{method} is not allowed on {path}: use {' or '.join(allowed)}")
        self.allowed = allowed


class HeadersTooLarge(EmbedError):
    """The request's headers and path are over the limit. Servers in front of this one allow 4 to 64 kB."""

    kind = "headers_too_large"

    def __init__(self) -> None:
        super().__init__(
            f"the request's headers are over {MAX_HEADER_BYTES:,} bytes together: send fewer or smaller ones, for "
            "example without cookies"
        )


class NoInputs(InvalidRequest):
    """An empty list of texts. TEI has a separate status for it."""


class TooManyInputs(InvalidRequest):
    """More texts than one request may have. TEI's status is 413, others use 400."""


STATUSES: Mapping[str, int] = {
    "invalid_request": 400,
    "input_too_long": 400,
    "authentication": 401,
    "permission": 403,
    "model_not_found": 404,
    "not_found": 404,
    "no_such_object": 404,
    "method_not_allowed": 405,
    "payload_too_large": 413,
    "overloaded": 429,
    "headers_too_large": 431,
    "engine": 500,
    "model_load": 500,
    "pull_failed": 500,
    "not_supported": 501,
    "unavailable": 503,
    "deadline_exceeded": 504,
}
"""The status of each kind that a reply may have. A dialect may use another one."""

# openai-python retries every status of 500 and above unless a header forbids it, but these would only fail again.
# After a deadline, the request's own or the operator's, the same work would begin anew, with as little time.
_NEVER_RETRIED = frozenset({"engine", "model_load", "pull_failed", "not_supported", "deadline_exceeded"})

WORDS: Mapping[WayOut, str] = {
    WayOut.SHORTEN: "shorten or split it",
    WayOut.TRUNCATE: 'send "truncate": true to have it cut',
    WayOut.TRUNCATE_DOCUMENT: 'send "truncate": true to have the document cut',
    WayOut.LEAVE_OUT: "leave it out",
    WayOut.FEWER_INPUTS: "send fewer inputs in one request",
    WayOut.RETRY: "retry later",
    WayOut.PROMPT_YOURSELF: "put the prompt before your texts yourself",
    WayOut.NAME_LABEL: 'set "label" to the name or number of one of them',
    WayOut.SEND_TEXT: "send the text itself",
    WayOut.SEND_INLINE: "send the image as data:image/png;base64,…",
    WayOut.POOL: "start the server with --pooling mean, cls or last",
    WayOut.SPARSE_VECTORS: 'send "return_sparse": true to POST /v1/embeddings, or use POST /embed_sparse',
    WayOut.HEAD_VECTORS: "use POST /v1/embeddings",
    WayOut.COMPARE_VECTORS: 'send "method": "embedding" to rank by the cosine of this model\'s vectors',
    WayOut.ASK_TIME: "send a larger X-Request-Timeout",
    WayOut.LARGER_QUEUE: "start the server with a larger --max-queue or --max-queue-tokens",
    WayOut.LARGER_TIMEOUT: "start the server with a larger --request-timeout",
    WayOut.MORE_BODY_MEMORY: "start the server with a larger --max-body-memory",
    WayOut.LARGER_CONTEXT: "start the server with a larger -c",
    WayOut.MORE_MODELS: "start the server with a larger --models-max",
    WayOut.MORE_MEMORY: "start the server with a larger --max-memory",
    WayOut.NAME_PROMPT: "start the server with --prompt NAME=TEXT",
    WayOut.ADD_TOWER: "start the server with --mmproj FILE, the model's vision tower",
    WayOut.ALLOW_HOST: "start the server with --allow-remote-media HOST",
    WayOut.FREE_SPACE: "free some space on the server's disk",
    WayOut.LARGER_FILES: "start the server with a larger limit on the size of a file (ulimit -f)",
    WayOut.OTHER_CACHE: "start the server with GGUF_EMBED_CACHE set to another folder",
    WayOut.KEEP_WEIGHTS: "start the server with --weights file",
    WayOut.LLAMA_TOKENIZER: "start the server with --tokenizer llama",
    WayOut.REPAIR_FILE: "run gguf-embed doctor --fix on the file",
    WayOut.OTHER_FILE: "use another GGUF of the model",
    WayOut.EXAMINE_FILE: "run gguf-embed doctor on the file",
    WayOut.SKIP_CHECK: "start the server with --check-files off",
}
"""The words of all dialects, which each may override with those for its own fields and routes."""

INTERNAL_MESSAGE = "internal error: see the server's log for details"


@dataclass(frozen=True, slots=True)
class ErrorReply:
    """A formatted error reply."""

    status: int
    body: bytes
    headers: Mapping[str, str]


def is_servers_fault(error: EmbedError) -> bool:
    """Whether the operator should look into it; a 501 and a 504 are not."""
    return STATUSES.get(error.kind, 500) >= 500 and error.kind not in ("not_supported", "deadline_exceeded")


def is_passing(error: EmbedError) -> bool:
    """Whether it is over soon, so that every request meets it until then: its cause has been logged once."""
    return isinstance(error, Unavailable) and error.retry_after_s is not None


def format_error(error: EmbedError, errors: ErrorFormat) -> ErrorReply:
    """Format an error for a dialect. A kind without a status becomes an `engine` error with a generic message."""
    if error.kind not in STATUSES:
        error = EngineFailure(INTERNAL_MESSAGE)
    status, body = errors.shape(error, describe(error, errors.words), STATUSES[error.kind])
    return ErrorReply(status, orjson.dumps(body), _headers(error))


def param_of(error: EmbedError) -> str | None:
    """The request's field that is wrong, if the error is about one."""
    match error:
        case InvalidRequest():
            return error.param
        case InputTooLong():
            return "input"
        case EmbedError(kind="model_not_found"):
            return "model"
        case _:
            return None


def _headers(error: EmbedError) -> dict[str, str]:
    headers: dict[str, str] = {}
    if error.kind in _NEVER_RETRIED:
        headers["x-should-retry"] = "false"
    if error.kind == "authentication":
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, (Overloaded, Unavailable)) and error.retry_after_s is not None:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
        headers["Retry-After-Ms"] = str(max(1, round(error.retry_after_s * 1000)))  # OpenAI's clients prefer it
    if isinstance(error, MethodNotAllowed):
        headers["Allow"] = ", ".join(error.allowed)
    return headers
