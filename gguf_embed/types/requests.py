"""A parsed request for vectors. No dialect is left in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from gguf_embed.errors import EmbedError
from gguf_embed.types.model import NO_LOAD_OPTIONS, LoadOptions
from gguf_embed.types.outputs import OutputSpec

Input = str | tuple[int | str, ...]
"""One input: a text; or a tuple of token ids and text parts, joined into one sequence.

A tuple of ids alone gets no special tokens; in a mixed tuple only a text that
comes first gets them (llama-server's rule).
"""


Span = tuple[int, int]
"""Characters of a text, in Unicode code points: the first, and the one after the last."""


@dataclass(frozen=True, slots=True)
class PromptChoice:
    """The prefix that a request asks for: by its name in the model's profile, or its very words. One of them is set."""

    name: str | None = None
    text: str | None = None
    param: str = "input_type"  # the request's field, for errors; the name of a "prompt_name" is taken literally


@dataclass(frozen=True, slots=True)
class ImageInput:
    """One input with images in it: texts, and PNG or JPEG files as bytes, in the order the model reads them."""

    index: int  # among the inputs of its request
    parts: tuple[str | bytes, ...]


@dataclass(frozen=True, slots=True)
class EmbedRequest:
    """A parsed request for vectors. No dialect is left in it."""

    inputs: tuple[Input, ...]
    model: str | None = None  # as the client named it; None when it did not
    output: OutputSpec | None = None  # None: the model's own
    embd_normalize: int | None = None  # None: the server's default; token vectors and scores are never normalized
    dimensions: int | None = None  # cut to this many and renormalize
    truncate: bool | None = None  # None: the server's default
    prompt: PromptChoice | None = None  # None: nothing is put before the texts
    strict_name: bool = False  # an unknown name is `ModelNotFound`, even where one model answers to any
    keep_alive_s: float | None = None  # how long the model stays loaded after this; inf: forever. None: the server's
    load: LoadOptions = NO_LOAD_OPTIONS
    spans: tuple[tuple[Span, ...], ...] = ()  # of each input, which is a text: a vector each instead of one for all
    spans_are_inputs: bool = False  # the one text is the client's inputs joined, its spans are they
    return_tokens: bool = False  # tell what each text was read as
    long_input: Literal["error", "chunk_mean"] = "error"  # read a text over the limit in windows, and average them
    on_error: Literal["fail", "skip"] = "fail"  # skip: an input at fault fails alone
    refused: Mapping[int, EmbedError] = field(default_factory=dict)  # with skip: inputs at fault already; any text is
    # in their place
    images: tuple[ImageInput, ...] = ()  # the inputs that have any, by rising index; their texts in `inputs` are ""
    scores: bool = False  # a model served with pooling rank may answer with scores, although no pooling was named
