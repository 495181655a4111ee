"""The contract between the engines and the rest of the program. Nothing here is specific to one engine.

A driver represents an engine before a model is loaded: it knows which files it can run and with which weights, what to
measure, and how large contexts must be. It loads a `LoadedEngine`: weights that open contexts, and a codec between
text and token ids.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

from gguf_embed.config import ModelConfig
from gguf_embed.gguf_file.header import GgufHeader
from gguf_embed.types import EngineProcessState, ImageInput, Output, OutputSpec, Pooling, Span, Vocabulary


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """Facts about loaded weights."""

    architecture: str
    description: str
    n_embd: int
    n_vocab: int
    n_ctx_train: int
    n_params: int
    size_bytes: int
    pooling: Pooling | None  # None: not in the file
    causal: bool  # a decoder, which has a KV memory
    n_cls_out: int  # numbers per text from the rank head; 0: no rank head
    vocab_type: int  # llama.cpp's llama_vocab_type
    bos_token: str
    eos_token: str
    labels: tuple[str, ...] = ()  # what the rank head's numbers stand for; () if the file does not name them
    has_second_text: bool = False  # for scores, id + n_vocab means the same token with the second token type
    reads_unattended: bool = False  # computes token rows with `OutputSpec.unattended`
    tasks: tuple[str, ...] = ()  # id + n_vocab · (1 + k) means the same token for task k


@dataclass(frozen=True, slots=True)
class ContextSpec:
    """What a context must be able to run. The engine checks every batch against it.

    An engine that needs more facts has a subclass, which its own `ContextPlanner` creates.
    """

    output: OutputSpec
    max_tokens: int  # total in one batch
    max_sequences: int  # texts in one batch, 1..256


class ContextPlanner(Protocol):
    """Decides which context runs a batch. Equal specs share one context."""

    @property
    def max_tokens(self) -> int:
        """Texts up to this length run on every worker, longer ones on worker 0 only, one at a time."""
        ...

    @property
    def long_tokens(self) -> int:
        """The length of the longest possible text."""
        ...

    def spec(self, output: OutputSpec, n_tokens: int, *, long: bool) -> ContextSpec:
        """The context for a batch of `n_tokens`. `long`: the batch is one text over `max_tokens`."""
        ...


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """Limits on one engine call. Contexts are sized for them."""

    max_tokens: int = 256  # computed in one batch, padding included
    max_sequences: int = 64
    min_share_tokens: int = 48  # sharing work among idle workers never makes batches smaller than this
    by_length: bool = False  # a request's texts are taken in order of length, because similar ones run faster together
    is_padded: bool = False  # a batch costs its number of texts times the longest one, not the sum of their tokens


@dataclass(frozen=True, slots=True)
class ExecutionPlan:
    """How a loaded model runs on this machine: chosen by the engine, followed by the scheduler, shown at startup."""

    contexts: ContextPlanner
    limits: BatchLimits
    n_workers: int  # batches computed at once
    n_threads: int  # in total, shared by the workers
    alone_threads: int  # for a batch that has the machine to itself
    tokens_per_s: float  # initial estimate for all workers; the queue measures the real speed
    kernels: str  # what multiplies the matrices: "ggml", "AMX", "numpy"
    details: tuple[str, ...] = ()  # other choices of the engine, in words
    measured: bool = False  # whether this was measured at warm-up
    bf16_failed: bool = False  # perhaps for a reason that passes, so what follows from this plan is not kept
    is_worth_caching: bool = True  # False: computing a text takes no longer than finding what was computed before


class EngineContext(Protocol):
    """Buffers to run one batch at a time over shared weights. Belongs to one thread after `open_context`."""

    @property
    def spec(self) -> ContextSpec: ...

    def embed(self, batch: Sequence[Sequence[int]], n_threads: int) -> Output:
        """Run the token sequences together. The output has one part per sequence, in order.

        Releases the GIL while computing. Checks all sizes first, so that no assert in the engine can fail. Raises
        `EngineFailure` if the engine refuses the batch.
        """
        ...

    def close(self) -> None: ...


@runtime_checkable
class KeepsBuffers(Protocol):
    """A context or image reader that keeps memory between batches which only a running batch needs."""

    def release_buffers(self) -> None:
        """Free it. The next batch allocates it again. What other contexts' running batches use stays."""
        ...


class Engine(Protocol):
    """Loaded weights. Its methods may be called from any thread."""

    @property
    def info(self) -> EngineInfo: ...

    def open_context(self, spec: ContextSpec) -> EngineContext:
        """Raises `ModelFileError` or `NotSupported` if this model cannot run such a context."""
        ...

    def close(self) -> None:
        """Free the weights. All contexts must be closed first."""
        ...


class TextCodec(Protocol):
    """Text to token ids and back, with the file's vocabulary. Any thread, until the engine is closed."""

    def vocabulary(self) -> Vocabulary:
        """Cheap, because entries are read on access (30,000 of them take about 15 ms)."""
        ...

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """Text to ids. `parse_special`: "[SEP]" in the text becomes that token."""
        ...

    def token_bytes(self, token: int) -> bytes:
        """The text of one id; special tokens in their written form.

        Raises `InvalidRequest` for an id outside the vocabulary.
        """
        ...

    def detokenize(self, tokens: Sequence[int]) -> str:
        """The text of a sequence. Raises `InvalidRequest` for an id outside the vocabulary."""
        ...


@dataclass(frozen=True, slots=True)
class ClosableCodec:
    """A codec that was opened without weights, for an engine that reads these from the file itself."""

    codec: TextCodec
    close: Callable[[], None]  # frees the vocabulary; the codec must not be used after it. Any number of calls
    exact: ExactTokenizing | None = None  # the same codec, if it gives the original tokenizer's ids


class ExactTokenizing(Protocol):
    """A codec with the ids of the original tokenizer, so that nobody need rebuild it from the vocabulary."""

    def tokenize_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`tokenize` each text in one call, with special tokens added and parsed. Any thread."""
        ...

    def tokenize_with_offsets(self, text: str) -> tuple[list[int], list[Span | None]]:
        """The same for one text, with the offsets of each token; None: unknown. Any thread."""
        ...


@dataclass(frozen=True, slots=True)
class ImageRows:
    """The output for one input with images."""

    output: Output  # of one text
    n_tokens: int  # including those of the images


class ImageReader(Protocol):
    """A vision tower together with a text model, or an image tower. Belongs to one thread after it was opened."""

    @property
    def max_inputs(self) -> int:
        """How many inputs it computes together."""
        ...

    def embed_batch(self, inputs: Sequence[ImageInput], output: OutputSpec) -> list[ImageRows]:
        """Decode, check and compute up to `max_inputs` inputs with images. Releases the GIL while computing.

        Raises `InvalidRequest` for an image that cannot be read, `ImageInputTooLong`, `NotSupported`, `EngineFailure`.
        """
        ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class LoadSpec:
    """What a driver needs to load a model."""

    header: GgufHeader  # of the file as the user gave it
    config: ModelConfig
    output: OutputSpec  # the default for requests
    cache_dir: Path  # for files that an engine derives from the model's file
    report: Callable[[str], None] = field(compare=False)  # gets lines for the operator
    open_codec: Callable[[Path], ClosableCodec] = field(compare=False)  # reads only a file's vocabulary
    on_stage: Callable[[str], None] = field(default=lambda stage: None, compare=False)  # gets what begins now, in words
    on_restart: Callable[[], None] = field(
        default=lambda: None, compare=False
    )  # of the engine's process, see `isolate`


@dataclass(frozen=True, slots=True)
class LoadedEngine:
    """What a driver loaded."""

    engine: Engine
    codec: TextCodec
    weights_type: str  # of the weights that run, e.g. "BF16" or "BF16, layers 1-3 F32"
    exact: ExactTokenizing | None = None  # the same codec, if it gives the original tokenizer's ids
    open_images: Callable[[], ImageReader] | None = None  # loads the vision tower; None: the engine supports none
    process_state: Callable[[], EngineProcessState] | None = None  # of the engine's own process; None: it runs in ours
    float32_layers: tuple[int, ...] = ()  # with BF16, those whose matrices are in float32, from 0
    images_alone: bool = False  # each image has its own vector: no text is read together with it


class EngineDriver(Protocol):
    """Everything that differs between engines. Stateless. Methods may block; call them on a load thread."""

    @property
    def name(self) -> str: ...

    def refusal(self, header: GgufHeader, config: ModelConfig) -> str | None:
        """Why this engine cannot run the file with this configuration, as the end of a sentence; None if it can."""
        ...

    def supports_gpu(self) -> bool:
        """Whether it can put weights on a GPU of this machine."""
        ...

    def memory_bytes(self, header: GgufHeader, config: ModelConfig) -> int:
        """An estimate of the memory that a model and its contexts take."""
        ...

    def load(self, spec: LoadSpec) -> LoadedEngine:
        """Choose the weights to run and load them. Raises `ModelFileError` or `ConfigError` with one clear line."""
        ...

    def plan(self, loaded: LoadedEngine, spec: LoadSpec, max_input_tokens: int) -> ExecutionPlan:
        """Warm up, measure if the configuration allows it, and choose the number of workers."""
        ...
