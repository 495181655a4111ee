"""The nouns everyone shares: requests, results, and what is known of a model. Values only, no behaviour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from gguf_embed.errors import EmbedError

FloatMatrix = NDArray[np.float32]
"""float32[n_rows, n_dims], C-contiguous."""

Prompt = str | tuple[int | str, ...]
"""One input: a text; or a tuple of token ids and text parts, joined into one sequence.

A tuple of ids alone gets no special tokens; in a mixed tuple only a text that
comes first gets them (llama-server's rule).
"""


Span = tuple[int, int]
"""Characters of a text, in Unicode code points: the first, and the one after the last."""


class Pooling(StrEnum):
    """How token rows become the answer. Names are llama.cpp's."""

    NONE = "none"
    MEAN = "mean"
    CLS = "cls"
    LAST = "last"
    RANK = "rank"


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What is known of a served model; everything a client may ask about it."""

    name: str  # the id that replies carry
    aliases: tuple[str, ...]  # further names that mean this model
    path: Path | None
    architecture: str  # the GGUF's general.architecture
    description: str  # llama.cpp's own, e.g. "bert 22M F16"
    file_type: str  # weights of the file as the user gave it, e.g. "F16"
    weights_type: str  # weights that really run, e.g. "BF16"
    pooling: Pooling
    embd_normalize: int  # -1 none, 0 max-abs int16, 1 taxicab, 2 Euclidean, p > 2 p-norm
    n_embd: int  # width of a vector, whatever the pooling
    n_vocab: int
    n_ctx_train: int  # positions the model was trained for
    n_ctx: int  # what -c asked for; n_ctx_train when it asked nothing
    max_input_tokens: int  # the true limit per text, special tokens included
    n_params: int
    size_bytes: int
    vocab_type: int  # llama.cpp's llama_vocab_type
    bos_token: str
    eos_token: str
    tokenizer: str  # "exact" (the model's own rules) or "llama" (llama.cpp's)
    causal: bool  # a decoder: its KV memory is cleared before each batch
    prompts: Mapping[str, str] = field(default_factory=dict)  # the model's own prefixes by name: "query", "document"…
    matryoshka: tuple[int, ...] = ()  # dimensions it was trained to be cut to; empty: not known of any
    license: str = ""  # as the file or the catalogue names it, e.g. "apache-2.0"
    n_scores: int = 0  # numbers that its rank head gives per text; 0: it has none and cannot rerank
    labels: tuple[str, ...] = ()  # what these numbers stand for; () when the file does not say
    rerank_template: str = ""  # the text that a query and a document are put into; "": one after the other
    reads_pictures: bool = False  # it was given a vision tower


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """One model that this process serves, loaded or not."""

    info: ModelInfo  # of a model that was never loaded: what its file's header tells
    digest: str  # sha256, 64 hexadecimal digits; names this content of the file
    modified_unix_s: float
    state: Literal["unloaded", "loading", "loaded"]
    memory_bytes: int = 0  # what it is reckoned to hold while loaded
    gpu_bytes: int = 0  # of these, on a GPU
    expires_unix_s: float | None = None  # when it will be unloaded if nobody asks; None: never, or not loaded


@dataclass(frozen=True, slots=True)
class PromptChoice:
    """The prefix that a request asks for: by its name in the model's profile, or its very words. One of them is set."""

    name: str | None = None
    text: str | None = None
    param: str = "input_type"  # the request's field, for errors; the name of a "prompt_name" is taken literally


@dataclass(frozen=True, slots=True)
class AppliedPrompt:
    """The prefix that was put before every text of a request."""

    name: str | None  # its name in the model's profile; None when the request gave the words
    text: str


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """How a request wants its model loaded (Ollama's `options`). None: as the server was started, or as it is now."""

    n_ctx: int | None = None  # longest text in tokens
    n_threads: int | None = None
    n_gpu_layers: int | None = None  # -1: all
    batch_tokens: int | None = None


NO_LOAD_OPTIONS = LoadOptions()


@dataclass(frozen=True, slots=True)
class PictureText:
    """One input with pictures in it: texts, and PNG or JPEG files as bytes, in the order the model reads them."""

    index: int  # among the inputs of its request
    parts: tuple[str | bytes, ...]


@dataclass(frozen=True, slots=True)
class EmbedRequest:
    """A parsed request for vectors. No dialect is left in it."""

    inputs: tuple[Prompt, ...]
    model: str | None = None  # as the client named it; None when it did not
    pooling: Pooling | None = None  # None: the model's own
    embd_normalize: int | None = None  # None: the server's default; token rows (pooling none) are never normalised
    dimensions: int | None = None  # cut to this many and renormalise
    truncate: bool | None = None  # None: the server's default
    prompt: PromptChoice | None = None  # None: nothing is put before the texts
    strict_name: bool = False  # an unknown name is `ModelNotFound`, even where one model answers to any
    keep_alive_s: float | None = None  # how long the model stays loaded after this; inf: for ever. None: the server's
    load: LoadOptions = NO_LOAD_OPTIONS
    spans: tuple[tuple[Span, ...], ...] = ()  # of each input, which is a text: a vector each instead of one for all
    spans_are_inputs: bool = False  # the one text is the client's inputs joined, its spans are they
    return_tokens: bool = False  # tell what each text was read as
    long_input: Literal["error", "chunk_mean"] = "error"  # read a text over the limit in windows, and average them
    on_error: Literal["fail", "skip"] = "fail"  # skip: an input at fault fails alone
    refused: Mapping[int, EmbedError] = field(default_factory=dict)  # with skip: inputs at fault already; any text is
    # in their place
    pictures: tuple[PictureText, ...] = ()  # the inputs that have any, by rising index; their texts in `inputs` are ""
    scores: bool = False  # a model served with pooling rank may answer with scores, although no pooling was named


@dataclass(frozen=True, slots=True)
class TokenizedText:
    """One input as the engine will see it. `n_tokens - len(tokens)` were cut."""

    tokens: Sequence[int]  # vocabulary ids, special tokens included
    n_tokens: int  # before truncation


@dataclass(frozen=True, slots=True)
class ReadTokens:
    """What one input was read as: three sequences of equal length, special tokens included."""

    ids: Sequence[int]
    pieces: Sequence[bytes]  # the text of each; may be a part of a character
    offsets: Sequence[Span | None]  # in the text as it was sent; None: none of it, or not known


@dataclass(frozen=True, slots=True)
class WindowedText:
    """One input that was read in windows because it was too long for one."""

    index: int
    n_tokens: int  # special tokens counted once
    n_windows: int


@dataclass(frozen=True, slots=True)
class InputFailure:
    """One input that has no vector, in a request where the others may have theirs."""

    index: int
    error: EmbedError


@dataclass(frozen=True, slots=True)
class Truncation:
    """One input that was cut, for the reply, the header and the log."""

    index: int
    n_tokens: int  # before the cut
    n_kept: int

    @property
    def n_dropped(self) -> int:
        return self.n_tokens - self.n_kept


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens the model really read for this request (duplicates counted as sent)."""

    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds this request spent in each stage."""

    tokenize_s: float = 0.0
    queue_s: float = 0.0  # the longest wait of any of its texts before a worker took it
    compute_s: float = 0.0  # the engine's time over the batches this request had a part in
    load_s: float = 0.0  # waited for the model to be loaded


@dataclass(frozen=True, slots=True)
class EmbedResult:
    """The finished vectors of one request, in the order of its inputs.

    `vectors` is float32[n_rows, n_dims]; input i owns rows `row_offsets[i]:row_offsets[i + 1]`:
    one row when pooled, one per token when pooling is none, one per span where spans were asked for, none where the
    input failed.
    """

    model: ModelInfo
    pooling: Pooling
    vectors: FloatMatrix
    row_offsets: tuple[int, ...]
    usage: Usage
    truncated: tuple[Truncation, ...] = ()
    timings: Timings = field(default_factory=Timings)
    prompt: AppliedPrompt | None = None  # what was put before every text
    tokens: tuple[ReadTokens | None, ...] = ()  # of each input, where they were asked for; None: it failed
    windowed: tuple[WindowedText, ...] = ()
    failures: tuple[InputFailure, ...] = ()  # in the order of the inputs


@dataclass(frozen=True, slots=True)
class ServiceState:
    """How the service is now: for `/health`, `/ready`, `/props` and the gauges."""

    status: Literal["ok", "loading", "draining", "failed"]
    detail: str = ""  # why it is not ok, for the client
    queued_texts: int = 0
    queued_tokens: int = 0
    running_texts: int = 0
    n_workers: int = 0
    n_threads: int = 0


@dataclass(frozen=True, slots=True)
class PullProgress:
    """One step of a download. Words as Ollama's: "pulling manifest", "pulling 797b70c4edf8", …, "success"."""

    status: str
    digest: str = ""  # "sha256:…" of the file that is coming
    total_bytes: int = 0  # 0: this step has no size
    completed_bytes: int = 0


class Embedder(Protocol):
    """Whatever turns a request into vectors: this process, another server, a pool of them."""

    async def embed(self, request: EmbedRequest) -> EmbedResult:
        """Answer the whole request or raise one `EmbedError`."""
        ...
