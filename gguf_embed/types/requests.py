"""A request for vectors, independent of the dialect it came in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from gguf_embed.errors import EmbedError
from gguf_embed.types.model import NO_LOAD_OPTIONS, LoadOptions
from gguf_embed.types.outputs import OutputSpec

Input = str | tuple[int | str, ...]
"""One input: a text; or a tuple of token ids and text parts, joined into one sequence.

A tuple of ids alone gets no special tokens. In a mixed tuple, only a text at the beginning gets them (llama-server's
rule).
"""

Span = tuple[int, int]
"""A range of characters, in Unicode code points: the first, and the one after the last."""


@dataclass(frozen=True, slots=True)
class PromptChoice:
    """The prompt that a request asks for: its name in the model's profile, or its text. Exactly one of them is set."""

    name: str | None = None
    text: str | None = None
    param: str = "input_type"  # the request's field, for errors; the value of "prompt_name" is taken literally


@dataclass(frozen=True, slots=True)
class ImageInput:
    """One input with images: texts, and PNG or JPEG files as bytes, in the order in which the model reads them."""

    index: int  # in its request
    parts: tuple[str | bytes, ...]


@dataclass(frozen=True, slots=True)
class Muvera:
    """How multi-vectors become vectors of fixed size; the names and defaults are fastembed's."""

    k_sim: int = 5  # random planes, which divide the space into 2**k_sim clusters
    dim_proj: int = 16  # numbers per cluster; as many as the multi-vectors have: no projection
    r_reps: int = 20  # repetitions with other planes
    random_seed: int = 42  # queries and documents need the same one

    @property
    def n_dims(self) -> int:
        """Numbers per vector."""
        return int(self.r_reps * 2**self.k_sim * self.dim_proj)


@dataclass(frozen=True, slots=True)
class EmbedRequest:
    """A request for vectors, independent of the dialect it came in."""

    inputs: tuple[Input, ...]
    model: str | None = None  # as the client wrote it; None: not named
    output: OutputSpec | None = None  # None: the model's own
    embd_normalize: int | None = None  # None: the server's default; token vectors and scores are never normalized
    dimensions: int | None = None  # cut to this many and renormalize
    truncate: bool | None = None  # None: the server's default
    max_tokens: int | None = None  # a limit per text, special tokens included; no more than the model's own applies
    cut_start: bool = False  # truncation cuts a text's beginning instead of its end
    prompt: PromptChoice | None = None  # None: no prompt before the texts
    strict_name: bool = False  # only a model of this name, of all pulled ones, too; else `ModelNotFound`
    keep_alive_s: float | None = None  # how long the model stays loaded afterwards; inf: forever. None: the default
    load: LoadOptions = NO_LOAD_OPTIONS
    spans: tuple[tuple[Span, ...], ...] = ()  # per input, which must be a text: one vector per span
    spans_are_inputs: bool = False  # `inputs` is one text, joined from the client's inputs; its spans are those inputs
    return_tokens: bool = False  # return each text's tokens
    long_input: Literal["error", "chunk_mean"] = "error"  # chunk_mean: average over windows of a text over the limit
    on_error: Literal["fail", "skip"] = "fail"  # skip: one wrong input does not fail the others
    refused: Mapping[int, EmbedError] = field(default_factory=dict)  # with skip: inputs that could not be parsed;
    # `inputs` holds a placeholder for each
    images: tuple[ImageInput, ...] = ()  # the inputs with images, by ascending index; each is "" in `inputs`
    scores: bool = False  # a model served with pooling rank may return scores although the request names no pooling
    pool_factor: int = 1  # multi-vectors of documents get about so many times fewer rows
    muvera: Muvera | None = None  # multi-vectors become one vector each, after `pool_factor`
