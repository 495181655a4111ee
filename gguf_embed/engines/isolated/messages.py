"""What the server and an engine's process say to each other. Each lane carries one request and its answer at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gguf_embed.config import ModelConfig
from gguf_embed.engines.base import ContextSpec, EngineInfo, ExecutionPlan
from gguf_embed.engines.isolated.packed import PackedBytes
from gguf_embed.errors import EmbedError
from gguf_embed.types import ImageInput, OutputSpec, Vocabulary


@dataclass(frozen=True, slots=True)
class LoadJob:
    """What to load."""

    path: Path
    config: ModelConfig  # which does not ask for another process
    output: OutputSpec  # the default for requests
    cache_dir: Path
    planner: bytes = b""  # the pickled `ContextPlanner` that an earlier process chose; b"": none yet
    log_level: int = 30


@dataclass(frozen=True, slots=True)
class MakePlan:
    """Asks for the execution plan of the loaded model."""

    max_input_tokens: int


@dataclass(frozen=True, slots=True)
class OpenContext:
    """Makes this lane one for batches: those of a worker that are `long`, or those that are not."""

    output: OutputSpec
    long: bool


@dataclass(frozen=True, slots=True)
class EmbedBatch:
    """Asks for the output of a batch."""

    texts: Sequence[Sequence[int]]
    n_threads: int


@dataclass(frozen=True, slots=True)
class CodecCall:
    """Calls one of the codec's methods."""

    method: Literal["tokenize", "tokenize_batch", "tokenize_with_offsets", "detokenize"]
    argument: object
    options: tuple[tuple[str, bool], ...] = ()


@dataclass(frozen=True, slots=True)
class ReleaseBuffers:
    """Frees what only running batches need. The answer is how many contexts and image readers did."""


@dataclass(frozen=True, slots=True)
class OpenImages:
    """Loads the vision tower, for this lane. The answer is how many inputs it computes together."""


@dataclass(frozen=True, slots=True)
class EmbedImages:
    """Asks for the outputs of inputs with images."""

    inputs: tuple[ImageInput, ...]
    output: OutputSpec


@dataclass(frozen=True, slots=True)
class Said:
    """On the way to an answer: a line for the operator, or the stage that begins now."""

    kind: Literal["report", "stage"]
    text: str
    reason: str = ""  # why an engine does not run the file, in a line that is reported once for all files


@dataclass(frozen=True, slots=True)
class Loaded:
    """The answer to `LoadJob`."""

    engine: str
    info: EngineInfo
    weights_type: str
    vocabulary: Vocabulary
    pieces: PackedBytes  # the text of each id
    is_exact: bool  # the codec gives the original tokenizer's ids
    reads_images: bool
    images_alone: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """The answer to `MakePlan`. `plan.contexts` is one that needs no engine's code."""

    plan: ExecutionPlan
    planner: bytes


@dataclass(frozen=True, slots=True)
class Failed:
    """The answer to a request that failed."""

    error: EmbedError


@dataclass(frozen=True, slots=True)
class IsolatedSpec(ContextSpec):
    """A context in another process, which chooses the real one for each batch."""

    long: bool = False


@dataclass(frozen=True, slots=True)
class IsolatedContexts:
    """Implements `ContextPlanner`. The sizes are those of the memory for rows."""

    max_tokens: int
    long_tokens: int
    batch_tokens: int
    max_sequences: int

    def spec(self, output: OutputSpec, n_tokens: int, *, long: bool) -> IsolatedSpec:
        if long:
            return IsolatedSpec(output, self.long_tokens, 1, long)
        return IsolatedSpec(output, max(self.max_tokens, self.batch_tokens), self.max_sequences, long)
