"""Every way a request or a start can fail, each with a stable `kind` and a message that names the way out.

No HTTP here: `server/http/errors.py` maps a kind to a status and each dialect to its own shape.
"""

from __future__ import annotations

from typing import ClassVar


class EmbedError(Exception):
    """Base of all errors we raise on purpose. `str(error)` is the whole message for the user."""

    kind: ClassVar[str] = "engine"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def for_input(self, index: int) -> EmbedError:
        """The same about another input of the request; errors that are about no input stay as they are."""
        return self

    def for_document(self, index: int) -> EmbedError:
        """The same about a document that is to be ranked."""
        return self

    def for_query(self) -> EmbedError:
        """The same about the query of a rerank request."""
        return self


class InvalidRequest(EmbedError):
    """The request itself is wrong: type, value, count.

    `param` names the offending field when known, `index` the input where it is one.
    """

    kind = "invalid_request"

    def __init__(self, message: str, param: str | None = None, index: int | None = None) -> None:
        super().__init__(message)
        self.param = param
        self.index = index


class InvalidInput(InvalidRequest):
    """One of a request's inputs is wrong. `reason` goes on after "input 3"."""

    index: int

    def __init__(self, index: int, reason: str, param: str | None = "input", noun: str = "input") -> None:
        super().__init__(f"{noun} {index}{reason}", param, index)
        self.reason = reason

    def for_input(self, index: int) -> InvalidInput:
        return InvalidInput(index, self.reason, self.param)

    def for_document(self, index: int) -> InvalidInput:
        return InvalidInput(index, self.reason, "documents", "document")

    def for_query(self) -> InvalidRequest:
        return InvalidRequest(f"the query{self.reason}", "query")


_TRUNCATE = '"truncate": true (or start with --truncate)'


class InputTooLong(EmbedError):
    """One input has more tokens than the model takes and truncation was not asked for.

    `can_average`: `long_input` would help, where the route has it.
    """

    kind = "input_too_long"
    is_document: ClassVar[bool] = False

    def __init__(self, index: int, n_tokens: int, limit: int, *, can_average: bool = False) -> None:
        self.index = index
        self.n_tokens = n_tokens
        self.limit = limit
        self.can_average = can_average
        super().__init__(self.message_for(_TRUNCATE))

    def message_for(self, truncate: str, *, has_long_input: bool = False) -> str:
        """The message where a request asks for a cut by `truncate`, and may have the field `long_input`."""
        average = ', or "long_input": "chunk_mean" to average its parts' if has_long_input and self.can_average else ""
        return (
            f"input {self.index} has {self.n_tokens} tokens, the limit per text is {self.limit}: shorten or split it, "
            f"or send {truncate} to cut it visibly{average}"
        )

    def for_input(self, index: int) -> InputTooLong:
        return type(self)(index, self.n_tokens, self.limit, can_average=self.can_average)

    def for_document(self, index: int) -> InputTooLong:
        return LoneDocumentTooLong(index, self.n_tokens, self.limit)

    def for_query(self) -> InvalidRequest:
        return InvalidRequest(
            f"the query has {self.n_tokens} tokens, the limit is {self.limit}: shorten it (it is never cut)", "query"
        )


class DocumentTooLong(InputTooLong):
    """A document has, together with the query, more tokens than the model takes and may not be cut."""

    is_document = True

    def message_for(self, truncate: str, *, has_long_input: bool = False) -> str:
        return (
            f"document {self.index} and the query have {self.n_tokens} tokens, the limit for both is {self.limit}: "
            f"shorten or split it, or send {truncate} to cut the document visibly"
        )


class LoneDocumentTooLong(DocumentTooLong):
    """The same of a document that is read without the query."""

    def message_for(self, truncate: str, *, has_long_input: bool = False) -> str:
        return (
            f"document {self.index} has {self.n_tokens} tokens, the limit per document is {self.limit}: shorten or "
            f"split it, or send {truncate} to cut it visibly"
        )


class ChunksTooLong(InputTooLong):
    """Inputs that are the chunks of one text have more tokens together than the model takes; `index` means nothing."""

    def message_for(self, truncate: str, *, has_long_input: bool = False) -> str:
        return (
            f"the inputs, one text with late_chunking, have {self.n_tokens} tokens together, the limit is "
            f"{self.limit}: send fewer of them in one request"
        )


class ImageInputTooLong(InputTooLong):
    """An input with images has more tokens than fit; images are never cut."""

    def message_for(self, truncate: str, *, has_long_input: bool = False) -> str:
        return (
            f"input {self.index} has {self.n_tokens} tokens with its images, the limit is {self.limit}: send fewer "
            "or smaller images, or a shorter text"
        )


class AuthenticationFailed(EmbedError):
    """No API key, or one that is not known."""

    kind = "authentication"


class PermissionDenied(EmbedError):
    """The key is known but may not do this."""

    kind = "permission"


class ModelNotFound(EmbedError):
    """The named model is not served here."""

    kind = "model_not_found"


class ModelLoadFailed(EmbedError):
    """A served model could not be loaded when a request asked for it. The next request tries again."""

    kind = "model_load"


class PullFailed(EmbedError):
    """A model could not be downloaded for a client: not on the hub, refused, cut off, no room."""

    kind = "pull_failed"


class PayloadTooLarge(EmbedError):
    """The request body is over the configured limit."""

    kind = "payload_too_large"


class NotSupported(EmbedError):
    """The served model or the way it was started cannot do this at all."""

    kind = "not_supported"


class Overloaded(EmbedError):
    """The queue is full. `retry_after_s` estimates, in whole seconds, when there will be room."""

    kind = "overloaded"

    def __init__(self, message: str, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Unavailable(EmbedError):
    """The server is loading, draining, or its workers are dead."""

    kind = "unavailable"


class EngineFailure(EmbedError):
    """The engine failed twice on this text alone, or gave numbers that are not finite."""

    kind = "engine"

    def __init__(self, message: str, index: int | None = None, noun: str = "input") -> None:
        super().__init__(message if index is None else f"{noun} {index}: {message}")
        self.reason = message
        self.index = index

    def for_input(self, index: int) -> EngineFailure:
        return EngineFailure(self.reason, index)

    def for_document(self, index: int) -> EngineFailure:
        return EngineFailure(self.reason, index, "document")

    def for_query(self) -> EngineFailure:
        return EngineFailure(f"the query: {self.reason}")


class ModelFileError(EmbedError):
    """A model cannot be found, read or loaded. Raised while starting; one line, no traceback."""

    kind = "model_file"


class ConfigError(EmbedError):
    """Flags or environment contradict each other or this machine. Raised while starting."""

    kind = "config"
