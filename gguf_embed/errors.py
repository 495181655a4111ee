"""Every way a request or a start can fail: a stable `kind`, and a message that names the wrong value and the limit.

A message never names a flag, a route or a JSON field. What the caller can do about the error is a `WayOut`; each
dialect of the server has its own words for it, and `describe` appends them to the message.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import Any, ClassVar, Self

MAX_OTHERS_SHOWN = 5
"""How many inputs a message names besides the first one."""


class WayOut(StrEnum):
    """What the caller can do about an error."""

    SHORTEN = "shorten"  # shorten or split the text
    TRUNCATE = "truncate"  # ask for long texts to be cut
    TRUNCATE_DOCUMENT = "truncate_document"  # ask for long documents to be cut before they are ranked
    AVERAGE = "average"  # ask for the average over a long text's windows
    NO_AVERAGE = "no_average"  # do not ask for that average
    FEWER_INPUTS = "fewer_inputs"  # send fewer inputs per request
    RETRY = "retry"  # retry later
    ASK_TIME = "ask_time"  # ask for more time
    LEAVE_OUT = "leave_out"  # leave the field out
    EMBED_OPTIONS = "embed_options"  # send the field to a route that supports it
    RERANK = "rerank"  # ask this model for scores
    POOL = "pool"  # name a pooling that gives one vector per text
    TOKEN_VECTORS = "token_vectors"  # use a route that can return one vector per token
    HEAD_VECTORS = "head_vectors"  # use a route that can return multi-vectors and sparse vectors
    COMPARE_VECTORS = "compare_vectors"  # rank by the cosine of vectors
    NAME_LABEL = "name_label"  # choose one of the rank head's labels
    PROMPT_YOURSELF = "prompt_yourself"  # put the prompt before the texts on the client's side
    SEND_TEXT = "send_text"  # send the text instead of token ids
    OWN_IDS = "own_ids"  # send the model's own token ids where they are expected
    SEND_INLINE = "send_inline"  # send an image's bytes instead of its URL
    # the rest is for the operator
    LARGER_QUEUE = "larger_queue"
    LARGER_TIMEOUT = "larger_timeout"
    MORE_BODY_MEMORY = "more_body_memory"
    LARGER_CONTEXT = "larger_context"
    MORE_MODELS = "more_models"
    MORE_MEMORY = "more_memory"
    NAME_PROMPT = "name_prompt"
    ADD_TOWER = "add_tower"
    ALLOW_HOST = "allow_host"
    REPAIR_FILE = "repair_file"
    FREE_SPACE = "free_space"  # on the disk
    OTHER_FOLDER = "other_folder"  # write the file into another folder
    OTHER_CACHE = "other_cache"  # use another folder for derived files
    KEEP_WEIGHTS = "keep_weights"  # run the weights as they are in the file
    LLAMA_TOKENIZER = "llama_tokenizer"  # use llama.cpp's tokenizer
    OTHER_FILE = "other_file"  # use another GGUF of the model
    EXAMINE_FILE = "examine_file"  # have the file examined
    SKIP_CHECK = "skip_check"  # run a file without trying it first


class EmbedError(Exception):
    """Base of all errors raised on purpose. `message` says what is wrong, `ways_out` what the caller can do."""

    kind: ClassVar[str] = "engine"

    def __init__(self, message: str, ways_out: Sequence[WayOut] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.ways_out = tuple(ways_out)

    def __reduce__(self) -> tuple[Any, ...]:
        """An error crosses processes with all that it says, whatever its constructor takes."""
        return _copied, (type(self), self.args, self.__dict__)

    def for_input(self, index: int) -> EmbedError:
        """The same error about input `index`. An error that is not about a single input is returned as it is."""
        return self

    def renumbered(self, number: Callable[[int], int]) -> EmbedError:
        """The same error where each input has the number that `number` gives for its present one."""
        index = getattr(self, "index", None)
        return self if index is None else self.for_input(number(index))

    def spread(self, index_of: Sequence[int]) -> EmbedError:
        """The same error about a request, if it is about its distinct inputs. `index_of`: the one of each input."""
        return self.renumbered(index_of.index)

    def for_document(self, index: int) -> EmbedError:
        """The same error about document `index` of a rerank request."""
        return self

    def for_query(self) -> EmbedError:
        """The same error about the query of a rerank request."""
        return self


def _copied(kind: type[EmbedError], args: tuple[Any, ...], attributes: Mapping[str, Any]) -> EmbedError:
    error = kind.__new__(kind)
    error.args = args
    error.__dict__.update(attributes)
    return error


def describe(error: EmbedError, words: Mapping[WayOut, str]) -> str:
    """The message, followed by the ways out that `words` has a phrase for: "input 0 has …: shorten it, or …"."""
    phrases = [words[way] for way in error.ways_out if way in words]
    if not phrases:
        return error.message
    *first, last = phrases
    return f"{error.message}: {', '.join(first)}, or {last}" if first else f"{error.message}: {last}"


class InvalidRequest(EmbedError):
    """The request itself is wrong: type, value, count.

    `param` names the offending field, and `index` the offending input, where there is one; `indexes` all of them, where
    there are several.
    """

    kind = "invalid_request"
    indexes: tuple[int, ...] = ()

    def __init__(
        self, message: str, param: str | None = None, index: int | None = None, ways_out: Sequence[WayOut] = ()
    ) -> None:
        super().__init__(message, ways_out)
        self.param = param
        self.index = index


class WrongEntries(InvalidRequest):
    """Several entries of an array are wrong. `first` is the error of the first one."""

    def __init__(self, first: InvalidRequest, indexes: Sequence[int]) -> None:
        shown = ", ".join(map(str, indexes[1 : MAX_OTHERS_SHOWN + 1]))
        n_more = len(indexes) - MAX_OTHERS_SHOWN - 1
        more = f" and {n_more:,} more" if n_more > 0 else ""
        super().__init__(f"{first.message}; also wrong: {shown}{more}", first.param, indexes[0])
        self.indexes = tuple(indexes)


class InvalidInput(InvalidRequest):
    """One input of a request is wrong. `reason` continues the sentence that begins with "input 3"."""

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
    """An input has more tokens than the model takes, and the request did not ask for truncation.

    `can_average`: its vector could be the average over windows. `others`: index and tokens of further ones.
    """

    kind = "input_too_long"

    def __init__(
        self,
        index: int,
        n_tokens: int,
        limit: int,
        *,
        can_average: bool = False,
        others: Sequence[tuple[int, int]] = (),
    ) -> None:
        self.index = index
        self.n_tokens = n_tokens
        self.limit = limit
        self.can_average = can_average
        self.others = tuple(others)
        super().__init__(self._what() + self._and_others(), self._ways_out())

    @classmethod
    def of(cls, found: Sequence[tuple[int, int]], limit: int, *, can_average: bool = False) -> Self:
        """The error about all that were found, at least one."""
        return cls(*found[0], limit, can_average=can_average, others=found[1:])

    @property
    def indexes(self) -> tuple[int, ...]:
        """All that are too long, in order."""
        return (self.index, *(index for index, _ in self.others))

    def _and_others(self) -> str:
        """How the sentence goes on if there are several."""
        shown = ", ".join(f"{index} ({n_tokens} tokens)" for index, n_tokens in self.others[:MAX_OTHERS_SHOWN])
        n_more = len(self.others) - MAX_OTHERS_SHOWN
        more = f" and {n_more:,} more" if n_more > 0 else ""
        return f", and so {'is' if len(self.others) == 1 else 'are'} {shown}{more}" if self.others else ""

    def renumbered(self, number: Callable[[int], int]) -> InputTooLong:
        found = [(number(index), n_tokens) for index, n_tokens in ((self.index, self.n_tokens), *self.others)]
        return type(self).of(found, self.limit, can_average=self.can_average)

    def spread(self, index_of: Sequence[int]) -> InputTooLong:
        n_tokens_of = dict([(self.index, self.n_tokens), *self.others])
        found = [(index, n_tokens_of[at]) for index, at in enumerate(index_of) if at in n_tokens_of]
        return type(self).of(found, self.limit, can_average=self.can_average)

    def _what(self) -> str:
        return f"input {self.index} is too large ({self.n_tokens} tokens, the limit per text is {self.limit})"

    def _ways_out(self) -> Sequence[WayOut]:
        return (WayOut.SHORTEN, WayOut.TRUNCATE, *([WayOut.AVERAGE] if self.can_average else []))

    def for_input(self, index: int) -> InputTooLong:
        return type(self)(index, self.n_tokens, self.limit, can_average=self.can_average)

    def for_document(self, index: int) -> InputTooLong:
        return LoneDocumentTooLong(index, self.n_tokens, self.limit, others=self.others if index == self.index else ())

    def for_query(self) -> InvalidRequest:
        return InvalidRequest(
            f"the query is too large ({self.n_tokens} tokens, the limit is {self.limit}): shorten it (queries are "
            "never cut)",
            "query",
        )


class DocumentTooLong(InputTooLong):
    """A document and the query together have more tokens than the model takes, and the document must not be cut."""

    def _what(self) -> str:
        return (
            f"document {self.index} and the query are too large together ({self.n_tokens} tokens, the limit for both "
            f"is {self.limit})"
        )

    def _ways_out(self) -> Sequence[WayOut]:
        return (WayOut.SHORTEN, WayOut.TRUNCATE_DOCUMENT)

    def for_document(self, index: int) -> DocumentTooLong:
        return type(self)(index, self.n_tokens, self.limit, others=self.others if index == self.index else ())


class LoneDocumentTooLong(DocumentTooLong):
    """A document that is embedded without the query has more tokens than the model takes."""

    def _what(self) -> str:
        return f"document {self.index} is too large ({self.n_tokens} tokens, the limit per document is {self.limit})"


class ChunksTooLong(InputTooLong):
    """The inputs are chunks of one text that has more tokens than the model takes. `index` has no meaning here."""

    def _what(self) -> str:
        return (
            f"the inputs are chunks of one text that is too large ({self.n_tokens} tokens, the limit is {self.limit})"
        )

    def _ways_out(self) -> Sequence[WayOut]:
        return (WayOut.FEWER_INPUTS,)


class ImageInputTooLong(InputTooLong):
    """An input with images has too many tokens. Images are never cut."""

    def _what(self) -> str:
        return (
            f"input {self.index} is too large ({self.n_tokens} tokens including its images, the limit is {self.limit})"
            ": send fewer or smaller images, or a shorter text"
        )

    def _ways_out(self) -> Sequence[WayOut]:
        return ()


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
