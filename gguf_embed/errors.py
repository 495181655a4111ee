"""Every way a request or a start can fail: a stable `kind`, and what is wrong with which value, by which limit.

What could be done about it is a `WayOut`, said in the words of each dialect of the server, and of the command line:
`describe` joins them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import ClassVar


class WayOut(StrEnum):
    """What could be done about an error."""

    SHORTEN = "shorten"  # the text, or split it
    TRUNCATE = "truncate"  # ask for texts that are too long to be cut
    TRUNCATE_DOCUMENT = "truncate_document"  # the same for documents that are to be ranked
    AVERAGE = "average"  # ask for the average of a long text's parts
    FEWER_INPUTS = "fewer_inputs"  # in one request
    RETRY = "retry"  # later
    LEAVE_OUT = "leave_out"  # the field
    EMBED_OPTIONS = "embed_options"  # send the field where it has a meaning
    RERANK = "rerank"  # ask this model for scores
    POOL = "pool"  # name a pooling that gives one vector per text
    TOKEN_VECTORS = "token_vectors"  # ask where one vector per token has a place
    COMPARE_VECTORS = "compare_vectors"  # rank by the cosine of vectors
    PROMPT_YOURSELF = "prompt_yourself"  # put the words before the texts
    SEND_INLINE = "send_inline"  # an image's bytes instead of its URL
    LARGER_QUEUE = "larger_queue"  # from here on for whoever starts the server
    LARGER_CONTEXT = "larger_context"
    MORE_MODELS = "more_models"
    MORE_MEMORY = "more_memory"
    NAME_PROMPT = "name_prompt"
    NAME_POOLING = "name_pooling"
    ADD_TOWER = "add_tower"
    ALLOW_HOST = "allow_host"
    REPAIR_FILE = "repair_file"


class EmbedError(Exception):
    """Base of all errors we raise on purpose. `message` says what is wrong, `ways_out` what could be done about it."""

    kind: ClassVar[str] = "engine"

    def __init__(self, message: str, ways_out: Sequence[WayOut] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.ways_out = tuple(ways_out)

    def for_input(self, index: int) -> EmbedError:
        """The same about another input of the request; errors that are about no input stay as they are."""
        return self

    def for_document(self, index: int) -> EmbedError:
        """The same about a document that is to be ranked."""
        return self

    def for_query(self) -> EmbedError:
        """The same about the query of a rerank request."""
        return self


def describe(error: EmbedError, words: Mapping[WayOut, str]) -> str:
    """The message with the ways out that `words` has a phrase for: "input 0 has …: shorten it, or …"."""
    phrases = [words[way] for way in error.ways_out if way in words]
    if not phrases:
        return error.message
    *first, last = phrases
    return f"{error.message}: {', '.join(first)}, or {last}" if first else f"{error.message}: {last}"


class InvalidRequest(EmbedError):
    """The request itself is wrong: type, value, count.

    `param` names the offending field when known, `index` the input where it is one.
    """

    kind = "invalid_request"

    def __init__(
        self, message: str, param: str | None = None, index: int | None = None, ways_out: Sequence[WayOut] = ()
    ) -> None:
        super().__init__(message, ways_out)
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


class InputTooLong(EmbedError):
    """One input has more tokens than the model takes and truncation was not asked for.

    `can_average`: an average of its parts has a meaning.
    """

    kind = "input_too_long"

    def __init__(self, index: int, n_tokens: int, limit: int, *, can_average: bool = False) -> None:
        self.index = index
        self.n_tokens = n_tokens
        self.limit = limit
        self.can_average = can_average
        super().__init__(self._what(), self._ways_out())

    def _what(self) -> str:
        return f"input {self.index} has {self.n_tokens} tokens, the limit per text is {self.limit}"

    def _ways_out(self) -> Sequence[WayOut]:
        return (WayOut.SHORTEN, WayOut.TRUNCATE, *([WayOut.AVERAGE] if self.can_average else []))

    def for_input(self, index: int) -> InputTooLong:
        return type(self)(index, self.n_tokens, self.limit, can_average=self.can_average)

    def for_document(self, index: int) -> InputTooLong:
        return LoneDocumentTooLong(index, self.n_tokens, self.limit)

    def for_query(self) -> InvalidRequest:
        return InvalidRequest(
            f"the query has {self.n_tokens} tokens, the limit is {self.limit}: shorten it (a query is never cut)",
            "query",
        )


class DocumentTooLong(InputTooLong):
    """A document has, together with the query, more tokens than the model takes and may not be cut."""

    def _what(self) -> str:
        return f"document {self.index} and the query have {self.n_tokens} tokens, the limit for both is {self.limit}"

    def _ways_out(self) -> Sequence[WayOut]:
        return (WayOut.SHORTEN, WayOut.TRUNCATE_DOCUMENT)


class LoneDocumentTooLong(DocumentTooLong):
    """The same of a document that is read without the query."""

    def _what(self) -> str:
        return f"document {self.index} has {self.n_tokens} tokens, the limit per document is {self.limit}"


class ChunksTooLong(InputTooLong):
    """Inputs that are the chunks of one text have more tokens together than the model takes; `index` means nothing."""

    def _what(self) -> str:
        return f"the inputs, chunks of one text, have {self.n_tokens} tokens together, the limit is {self.limit}"

    def _ways_out(self) -> Sequence[WayOut]:
        return (WayOut.FEWER_INPUTS,)


class ImageInputTooLong(InputTooLong):
    """An input with images has more tokens than fit; images are never cut."""

    def _what(self) -> str:
        return (
            f"input {self.index} has {self.n_tokens} tokens with its images, the limit is {self.limit}: send fewer "
            "or smaller images, or a shorter text"
        )

    def _ways_out(self) -> Sequence[WayOut]:
        return ()


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

    def __init__(self, message: str, retry_after_s: int = 1, ways_out: Sequence[WayOut] = (WayOut.RETRY,)) -> None:
        super().__init__(message, ways_out)
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
