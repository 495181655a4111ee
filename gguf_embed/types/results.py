"""The result of a request for vectors, and the details returned with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gguf_embed.errors import EmbedError
from gguf_embed.types.model import EngineProcessState, ModelInfo
from gguf_embed.types.outputs import Output
from gguf_embed.types.requests import Span

FloatMatrix = NDArray[np.float32]
"""float32[n_rows, n_dims], C-contiguous."""


@dataclass(frozen=True, slots=True)
class TokenInfo:
    """The tokens of one input: three sequences of equal length, special tokens included."""

    ids: Sequence[int]
    pieces: Sequence[bytes]  # the text of each token; may be a part of a character
    offsets: Sequence[Span | None]  # in the text as it was sent; None: not in the text, or unknown


@dataclass(frozen=True, slots=True)
class TextTokens:
    """All tokens of a text."""

    tokens: TokenInfo
    own: range  # the indexes of the text's own tokens, without special tokens around it


@dataclass(frozen=True, slots=True)
class WindowedText:
    """One input that was split into windows because it was over the limit."""

    index: int
    n_tokens: int  # special tokens counted once
    n_windows: int


@dataclass(frozen=True, slots=True)
class InputFailure:
    """One input that failed in a request whose other inputs may have succeeded."""

    index: int
    error: EmbedError


@dataclass(frozen=True, slots=True)
class Truncation:
    """One input that was cut."""

    index: int
    n_tokens: int  # before the cut
    n_kept: int

    @property
    def n_dropped(self) -> int:
        return self.n_tokens - self.n_kept


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens the model read for this request. Repeated inputs count every time."""

    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds this request spent in each stage."""

    tokenize_s: float = 0.0
    queue_s: float = 0.0  # the longest wait for a worker among its texts
    compute_s: float = 0.0  # engine time of the batches that held its texts
    load_s: float = 0.0  # waiting for the model to load


@dataclass(frozen=True, slots=True)
class AppliedPrompt:
    """The prompt that was put before every text of a request."""

    name: str | None  # its name in the model's profile; None if the request gave the text itself
    text: str


@dataclass(frozen=True, slots=True)
class EmbedResult:
    """The finished output of one request, in the order of its inputs."""

    model: ModelInfo
    output: Output  # one text per input
    usage: Usage
    truncated: tuple[Truncation, ...] = ()
    timings: Timings = field(default_factory=Timings)
    prompt: AppliedPrompt | None = None
    tokens: tuple[TokenInfo | None, ...] = ()  # per input, if requested; None: the input failed
    windowed: tuple[WindowedText, ...] = ()
    failures: tuple[InputFailure, ...] = ()  # in the order of the inputs


@dataclass(frozen=True, slots=True)
class QueueLoad:
    """The queue of one loaded model, for the gauges."""

    model: str
    n_outside: int  # requests that wait until it has room for them
    limit_tokens: int
    tokens_per_s: float  # measured
    interactive_tokens: int  # in a batch while short requests come
    n_tokenizing: int = 0  # requests that wait for a thread that tokenizes


@dataclass(frozen=True, slots=True)
class ServiceState:
    """The service's current state, for `/health`, `/ready`, `/props` and the gauges."""

    status: Literal["ok", "loading", "draining", "failed"]
    detail: str = ""  # the reason if it is not ok, for the client
    queued_texts: int = 0
    queued_tokens: int = 0
    running_texts: int = 0
    queued_s: float = 0.0  # how long the queued tokens take, by the measured speed
    n_workers: int = 0
    n_threads: int = 0
    processes: Mapping[str, EngineProcessState] = field(default_factory=dict)  # by model, of engines with their own
    queues: tuple[QueueLoad, ...] = ()  # one per loaded model


@dataclass(frozen=True, slots=True)
class PullProgress:
    """One step of a download. `status` is Ollama's: "pulling manifest", "pulling 797b70c4edf8", …, "success"."""

    status: str
    digest: str = ""  # "sha256:…" of the file
    total_bytes: int = 0  # 0: this step has no size
    completed_bytes: int = 0
