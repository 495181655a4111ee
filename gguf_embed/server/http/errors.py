"""An error's kind → HTTP status and a body in the dialect of the route."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import orjson

from gguf_embed.errors import (
    ChunksTooLong,
    EmbedError,
    EngineFailure,
    InputTooLong,
    InvalidRequest,
    Overloaded,
)
from gguf_embed.server.context import Dialect

_MAX_PATH_SHOWN = 100
_CLOSE = 0.8  # of difflib's ratio: one or two letters of a word
_GENERATION = re.compile(r"\b(chat|completions?|infill|messages|responses|generate|generate_stream)\b")


class RouteNotFound(EmbedError):
    """No such path here. Names it, and the one that was probably meant, or says that nothing here generates text."""

    kind = "not_found"

    def __init__(self, path: str, known: Iterable[str] = ()) -> None:
        # a path that is not UTF-8 comes as surrogates, which JSON cannot hold
        shown = path[:_MAX_PATH_SHOWN].encode("utf-8", "replace").decode()
        hint = ""
        if _GENERATION.search(shown):
            hint = "this server embeds texts and generates none; "
        elif meant := difflib.get_close_matches(shown, known, n=1, cutoff=_CLOSE):
            hint = f"did you mean {meant[0]}? "
        super().__init__(f"there is no route {shown} here: {hint}GET / lists all")


class MethodNotAllowed(EmbedError):
    """The path exists, not for this method."""

    kind = "method_not_allowed"

    def __init__(self, method: str, path: str, allowed: tuple[str, ...]) -> None:
        super().__init__(f"{method} is not allowed on {path}: use {' or '.join(allowed)}")
        self.allowed = allowed


class NoInputs(InvalidRequest):
    """An empty list of texts. TEI has a status of its own for it."""


class TooManyInputs(InvalidRequest):
    """More texts than one request may hold. TEI answers 413, others 400."""


@dataclass(frozen=True, slots=True)
class ErrorShape:
    """How one kind appears on the wire."""

    status: int
    llama_type: str
    openai_type: str
    openai_code: str
    headers: Mapping[str, str] = field(default_factory=dict)


# openai-python repeats every answer of 500 and above unless told not to: these would only fail again.
_NO_RETRY = {"x-should-retry": "false"}

ERROR_SHAPES: Mapping[str, ErrorShape] = {
    "invalid_request": ErrorShape(400, "invalid_request_error", "invalid_request_error", "invalid_request"),
    "input_too_long": ErrorShape(400, "exceed_context_size_error", "invalid_request_error", "context_length_exceeded"),
    "authentication": ErrorShape(
        401, "authentication_error", "authentication_error", "invalid_api_key", {"WWW-Authenticate": "Bearer"}
    ),
    "permission": ErrorShape(403, "permission_error", "permission_error", "permission_denied"),
    "model_not_found": ErrorShape(404, "not_found_error", "invalid_request_error", "model_not_found"),
    "not_found": ErrorShape(404, "not_found_error", "invalid_request_error", "unknown_url"),
    "method_not_allowed": ErrorShape(405, "invalid_request_error", "invalid_request_error", "method_not_supported"),
    "payload_too_large": ErrorShape(413, "invalid_request_error", "invalid_request_error", "payload_too_large"),
    "overloaded": ErrorShape(429, "unavailable_error", "rate_limit_error", "rate_limit_exceeded"),
    "engine": ErrorShape(500, "server_error", "server_error", "engine_error", _NO_RETRY),
    "model_load": ErrorShape(500, "server_error", "server_error", "model_load_failed", _NO_RETRY),
    "pull_failed": ErrorShape(500, "server_error", "server_error", "pull_failed", _NO_RETRY),
    "not_supported": ErrorShape(501, "not_supported_error", "not_supported_error", "not_supported", _NO_RETRY),
    "unavailable": ErrorShape(503, "unavailable_error", "unavailable_error", "service_unavailable"),
}

# Where Ollama's own words or status differ; its clients look for these words, so ours come after them
# (ollama: server/sched.go ErrMaxQueue, server/routes.go handleScheduleError, llm/llama_server.go).
_OLLAMA_STATUS = {"overloaded": 503}
_OLLAMA_WORDS = {
    "overloaded": "server busy, please try again.  maximum pending requests exceeded",
    "input_too_long": "the input length exceeds the context length",
}

# Text Embeddings Inference (router/src/http/server.rs): what its error types are, and its status for each. A request
# that it cannot read is axum's 422 there. The last four have no type in TEI, which sends no body with them.
TEI_SHAPES = {
    "invalid_request": (422, "Validation"),
    "input_too_long": (413, "Validation"),
    "payload_too_large": (413, "Validation"),
    "overloaded": (429, "Overloaded"),
    "engine": (424, "Backend"),
    "model_load": (424, "Backend"),
    "not_supported": (424, "Backend"),
    "unavailable": (503, "Unhealthy"),
    "authentication": (401, "Unauthorized"),
    "model_not_found": (404, "NotFound"),
    "not_found": (404, "NotFound"),
    "method_not_allowed": (405, "MethodNotAllowed"),
}

# How a dialect asks for a cut of a text that is too long; llama.cpp's and OpenAI's follow --truncate.
_TRUNCATE = {Dialect.COHERE: '"truncate": "END"', Dialect.TEI: '"truncate": true', Dialect.OLLAMA: '"truncate": true'}
_TRUNCATE_DOCUMENTS = {Dialect.COHERE: '"truncate": true'}
_FOLLOWS_FLAG = '"truncate": true (or start with --truncate)'

INTERNAL_MESSAGE = "internal error; the server's log has the details"


@dataclass(frozen=True, slots=True)
class ErrorReply:
    """A finished error answer."""

    status: int
    body: bytes
    headers: Mapping[str, str]


def is_servers_fault(error: EmbedError) -> bool:
    """Whether whoever runs the server should look: not for what a client asked for in vain (501)."""
    shape = ERROR_SHAPES.get(error.kind, ERROR_SHAPES["engine"])
    return shape.status >= 500 and error.kind != "not_supported"


def format_error(error: EmbedError, dialect: Dialect) -> ErrorReply:
    """Put an error into the dialect's shape. A kind that has no place on the wire becomes a bare `engine`."""
    shape = ERROR_SHAPES.get(error.kind)
    message = _message(error, dialect) if shape else INTERNAL_MESSAGE
    shape = shape or ERROR_SHAPES["engine"]
    headers = {**shape.headers, **_headers(error)}
    if dialect is Dialect.OLLAMA:
        return _ollama_reply(error.kind, shape.status, message, headers)
    if dialect is Dialect.COHERE:
        return ErrorReply(shape.status, orjson.dumps({"message": message}), headers)
    if dialect is Dialect.TEI:
        return _tei_reply(error, shape.status, message, headers)
    return ErrorReply(shape.status, orjson.dumps({"error": describe_error(error, dialect)}), headers)


def describe_error(error: EmbedError, dialect: Dialect) -> dict[str, object]:
    """The object under `error` in OpenAI's or llama.cpp's shape."""
    shape = ERROR_SHAPES.get(error.kind)
    message = _message(error, dialect) if shape else INTERNAL_MESSAGE
    shape = shape or ERROR_SHAPES["engine"]
    detail: dict[str, object]
    if dialect is Dialect.OPENAI:
        detail = {"message": message, "type": shape.openai_type, "param": _param(error), "code": shape.openai_code}
    else:
        detail = {"code": shape.status, "message": message, "type": shape.llama_type}
    match error:
        case ChunksTooLong():
            detail |= {"n_prompt_tokens": error.n_tokens, "n_ctx": error.limit}
        case InputTooLong():
            detail |= {"index": error.index, "n_prompt_tokens": error.n_tokens, "n_ctx": error.limit}
        case InvalidRequest(index=int(index)) | EngineFailure(index=int(index)):
            detail["index"] = index
    return detail


def _message(error: EmbedError, dialect: Dialect) -> str:
    """The error's own, but where the way out is a field: what this dialect's routes take."""
    if not isinstance(error, InputTooLong):
        return error.message
    words = _TRUNCATE_DOCUMENTS if error.is_document else _TRUNCATE
    has_long_input = dialect in (Dialect.OPENAI, Dialect.LLAMA)
    return error.message_for(words.get(dialect, _FOLLOWS_FLAG), has_long_input=has_long_input)


def _ollama_reply(kind: str, status: int, message: str, headers: Mapping[str, str]) -> ErrorReply:
    words = _OLLAMA_WORDS.get(kind)
    text = f"{words}: {message}" if words else message
    return ErrorReply(_OLLAMA_STATUS.get(kind, status), orjson.dumps({"error": text}), headers)


def _tei_reply(error: EmbedError, status: int, message: str, headers: Mapping[str, str]) -> ErrorReply:
    match error:
        case NoInputs():
            status, error_type = 400, "Empty"
        case TooManyInputs():
            status, error_type = 413, "Validation"
        case _:
            status, error_type = TEI_SHAPES.get(error.kind, (424 if status >= 500 else status, "Backend"))
    return ErrorReply(status, orjson.dumps({"error": message, "error_type": error_type}), headers)


def _param(error: EmbedError) -> str | None:
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
    match error:
        case Overloaded():
            return {"Retry-After": str(max(1, error.retry_after_s))}
        case MethodNotAllowed():
            return {"Allow": ", ".join(error.allowed)}
        case _:
            return {}
