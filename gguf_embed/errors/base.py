"""What every error has: a stable `kind`, and a message that names the wrong value and the limit.

A message never names a flag, a route or a JSON field. What the caller can do about the error is a `WayOut`; each
dialect of the server has its own words for it, and `describe` appends them to the message.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import Any, ClassVar


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
    SPARSE_VECTORS = "sparse_vectors"  # ask for sparse vectors
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
    OTHER_OUTPUT = "other_output"  # write somewhere else
    REDIRECT = "redirect"  # send standard output somewhere else
    OTHER_TEMPORARY = "other_temporary"  # use another folder for temporary files
    LARGER_FILES = "larger_files"  # allow larger files
    OTHER_CACHE = "other_cache"  # use another folder for derived files
    KEEP_WEIGHTS = "keep_weights"  # run the weights as they are in the file
    LLAMA_TOKENIZER = "llama_tokenizer"  # use llama.cpp's tokenizer
    OTHER_FILE = "other_file"  # use another GGUF of the model
    EXAMINE_FILE = "examine_file"  # have the file examined
    SKIP_CHECK = "skip_check"  # run a file without trying it first


class EmbedError(Exception):
    """Base of all errors raised on purpose. `message` says what is wrong, `ways_out` what the caller can do.

    `problem` is the message as it was raised, also after words for the ways out were added to `message`.
    """

    kind: ClassVar[str] = "engine"

    def __init__(self, message: str, ways_out: Sequence[WayOut] = ()) -> None:
        super().__init__(message)
        self.message = self.problem = message
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
