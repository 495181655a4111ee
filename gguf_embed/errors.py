"""Every way a request or a start can fail, each with a stable `kind` and a message that names the way out.

No HTTP here: `server/errors.py` maps a kind to a status and each dialect to its own shape.
"""

from __future__ import annotations

from typing import ClassVar


class EmbedError(Exception):
    """Base of all errors we raise on purpose. `str(error)` is the whole message for the user."""

    kind: ClassVar[str] = "engine"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def of_input(self, index: int) -> EmbedError:
        """The same about another input of the request; errors that are about no input stay as they are."""
        return self


class InvalidRequest(EmbedError):
    """The request itself is wrong: type, value, count. `param` names the offending field when known."""

    kind = "invalid_request"

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class InvalidInput(InvalidRequest):
    """One of a request's inputs is wrong. `reason` goes on after "input 3"."""

    def __init__(self, index: int, reason: str, param: str | None = None) -> None:
        super().__init__(f"input {index}{reason}", param)
        self.index = index
        self.reason = reason

    def of_input(self, index: int) -> InvalidInput:
        return InvalidInput(index, self.reason, self.param)


class InputTooLong(EmbedError):
    """One input has more tokens than the model takes and truncation was not asked for."""

    kind = "input_too_long"

    def __init__(self, index: int, n_tokens: int, limit: int) -> None:
        super().__init__(
            f"input {index} has {n_tokens} tokens, the limit per text is {limit}: shorten or split it, "
            f'or send "truncate": true (or start with --truncate) to cut it visibly'
        )
        self.index = index
        self.n_tokens = n_tokens
        self.limit = limit

    def of_input(self, index: int) -> InputTooLong:
        return type(self)(index, self.n_tokens, self.limit)


class DocumentTooLong(InputTooLong):
    """A document has, together with the query, more tokens than the model takes and may not be cut."""

    def __init__(self, index: int, n_tokens: int, limit: int) -> None:
        EmbedError.__init__(
            self,
            f"document {index} and the query have {n_tokens} tokens, the limit for both is {limit}: shorten or split "
            f'it, or send "truncate": true (or start with --truncate) to cut the document visibly',
        )
        self.index = index
        self.n_tokens = n_tokens
        self.limit = limit


class PicturesTooLong(InputTooLong):
    """An input with pictures has more tokens than fit; pictures are never cut."""

    def __init__(self, index: int, n_tokens: int, limit: int) -> None:
        EmbedError.__init__(
            self,
            f"input {index} has {n_tokens} tokens with its pictures, the limit is {limit}: send fewer or smaller "
            "pictures, or a shorter text",
        )
        self.index = index
        self.n_tokens = n_tokens
        self.limit = limit


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

    def __init__(self, message: str, index: int | None = None) -> None:
        super().__init__(message if index is None else f"input {index}: {message}")
        self.reason = message
        self.index = index

    def of_input(self, index: int) -> EngineFailure:
        return EngineFailure(self.reason, index)


class ModelFileError(EmbedError):
    """A model cannot be found, read or loaded. Raised while starting; one line, no traceback."""

    kind = "model_file"


class ConfigError(EmbedError):
    """Flags or environment contradict each other or this machine. Raised while starting."""

    kind = "config"
