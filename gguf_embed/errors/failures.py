"""Errors of the server, its models and its configuration, and requests that it refuses whatever they contain."""

from __future__ import annotations

from collections.abc import Sequence

from gguf_embed.errors.base import EmbedError, WayOut


class AuthenticationFailed(EmbedError):
    """The API key is missing or unknown."""

    kind = "authentication"


class PermissionDenied(EmbedError):
    """The client may not do this."""

    kind = "permission"


class ModelNotFound(EmbedError):
    """This server does not serve the named model."""

    kind = "model_not_found"


class ModelLoadFailed(EmbedError):
    """A served model could not be loaded for a request. The next request tries again."""

    kind = "model_load"


class PullFailed(EmbedError):
    """A download failed: not on the hub, refused, interrupted, or no disk space."""

    kind = "pull_failed"


class PayloadTooLarge(EmbedError):
    """The request body is larger than the configured limit."""

    kind = "payload_too_large"


class NotSupported(EmbedError):
    """The served model, or the way it was started, does not support this at all."""

    kind = "not_supported"


class GivesScoresOnly(NotSupported):
    """A request for vectors names no pooling, and the model is a reranker."""


class NoDenseVector(NotSupported):
    """A request for one dense vector per text, and the model gives sparse vectors or one per token."""


class Overloaded(EmbedError):
    """The queue is full. `retry_after_s` is an estimate of when it will have room."""

    kind = "overloaded"

    def __init__(self, message: str, retry_after_s: float = 1.0, ways_out: Sequence[WayOut] = (WayOut.RETRY,)) -> None:
        super().__init__(message, ways_out)
        self.retry_after_s = retry_after_s


class Unavailable(EmbedError):
    """The server is loading or shutting down, or a worker has died.

    `retry_after_s`: when it is expected to be over; None: unknown.
    """

    kind = "unavailable"

    def __init__(self, message: str, ways_out: Sequence[WayOut] = (), retry_after_s: float | None = None) -> None:
        super().__init__(message, ways_out)
        self.retry_after_s = retry_after_s


class OutOfTime(Unavailable):
    """The server shuts down, and cannot compute this accepted request before it must end."""

    def __init__(self) -> None:
        super().__init__(
            "the server is shutting down, and the time that is left is too short for this request", [WayOut.RETRY]
        )


class DeadlineExceeded(EmbedError):
    """The request took longer than it or the server allows. What waited of it is dropped before it runs."""

    kind = "deadline_exceeded"

    def __init__(self, limit_s: float, ways_out: Sequence[WayOut]) -> None:
        super().__init__(f"the request took longer than {limit_s:g} s, the limit on its time", ways_out)
        self.limit_s = limit_s


class EngineFailure(EmbedError):
    """The engine failed on a text, also when it ran alone, or returned numbers that are not finite."""

    kind = "engine"

    def __init__(
        self, message: str, index: int | None = None, noun: str = "input", ways_out: Sequence[WayOut] = ()
    ) -> None:
        super().__init__(message if index is None else f"{noun} {index}: {message}", ways_out)
        self.reason = message
        self.index = index

    def for_input(self, index: int) -> EngineFailure:
        return EngineFailure(self.reason, index)

    def for_document(self, index: int) -> EngineFailure:
        return EngineFailure(self.reason, index, "document")

    def for_query(self) -> EngineFailure:
        return EngineFailure(f"the query: {self.reason}")


class ModelFileError(EmbedError):
    """A model cannot be found, read or loaded. One line; the command line shows it without a traceback."""

    kind = "model_file"


class ConfigError(EmbedError):
    """Flags or environment variables contradict each other, or do not fit this machine."""

    kind = "config"
