"""The answer to a request for vectors, and what is told beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gguf_embed.errors import EmbedError
from gguf_embed.types.model import ModelInfo
from gguf_embed.types.outputs import Output
from gguf_embed.types.requests import Span

FloatMatrix = NDArray[np.float32]
"""float32[n_rows, n_dims], C-contiguous."""


@dataclass(frozen=True, slots=True)
class TokenInfo:
    """What one input was read as: three sequences of equal length, special tokens included."""

    ids: Sequence[int]
    pieces: Sequence[bytes]  # the text of each; may be a part of a character
    offsets: Sequence[Span | None]  # in the text as it was sent; None: none of it, or not known


@dataclass(frozen=True, slots=True)
class TextTokens:
    """All tokens of a text."""

    tokens: TokenInfo
    own: range  # which of them are the text's, not special tokens around it


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
class AppliedPrompt:
    """The prefix that was put before every text of a request."""

    name: str | None  # its name in the model's profile; None when the request gave the words
    text: str


@dataclass(frozen=True, slots=True)
class EmbedResult:
    """The finished output of one request, in the order of its inputs."""

    model: ModelInfo
    output: Output  # of as many texts as the request has inputs
    usage: Usage
    truncated: tuple[Truncation, ...] = ()
    timings: Timings = field(default_factory=Timings)
    prompt: AppliedPrompt | None = None  # what was put before every text
    tokens: tuple[TokenInfo | None, ...] = ()  # of each input, where they were asked for; None: it failed
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
