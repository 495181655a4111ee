"""Errors of what a request contains: a wrong value, or inputs that are too long."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Self

from gguf_embed.errors.base import EmbedError, WayOut

MAX_OTHERS_SHOWN = 5
"""How many inputs a message names besides the first one."""


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
