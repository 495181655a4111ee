"""The contract between the rest and whatever runs a model. Nothing of one engine's own crosses it.

A driver stands for an engine before anything is loaded: which files it runs, which weights, what to measure, how large
its contexts are. What it loads is a `LoadedEngine`: weights that open contexts, and a codec for text and token ids.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from gguf_embed.config import ModelConfig
from gguf_embed.gguf_file.header import GgufHeader
from gguf_embed.types import ImageInput, Output, OutputSpec, Pooling, Span, Vocabulary


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What the loaded weights say of themselves."""

    architecture: str
    description: str
    n_embd: int
    n_vocab: int
    n_ctx_train: int
    n_params: int
    size_bytes: int
    pooling: Pooling | None  # None: the file names none
    causal: bool  # has a KV memory (a decoder)
    n_cls_out: int  # numbers per text of the rank head; 0 without a rank head
    vocab_type: int  # llama.cpp's llama_vocab_type
    bos_token: str
    eos_token: str
    labels: tuple[str, ...] = ()  # what the rank head's numbers stand for; () when the file does not say
    has_second_text: bool = False  # for scores, id + n_vocab is the same token in a pair's second text


@dataclass(frozen=True, slots=True)
class ContextSpec:
    """What a context is asked to be able to run. The engine checks every batch against it.

    An engine that needs more to know has a subclass, which its own `ContextPlanner` makes.
    """

    output: OutputSpec
    max_tokens: int  # summed over one batch
    max_sequences: int  # texts in one batch, 1..256


class ContextPlanner(Protocol):
    """Which context runs which batch. Equal specs share one context."""

    @property
    def max_tokens(self) -> int:
        """Texts up to this long run on every worker; longer ones on worker 0, one at a time."""
        ...

    @property
    def long_tokens(self) -> int:
        """The longest text that may come."""
        ...

    def spec(self, output: OutputSpec, n_tokens: int, *, long: bool) -> ContextSpec:
        """The context for a batch of `n_tokens`; `long`: of one text over `max_tokens`."""
        ...


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """What one engine call may hold. Checked once, here; contexts are sized for it."""

    max_tokens: int = 256  # computed in one batch, padding included
    max_sequences: int = 64
    min_share_tokens: int = 48  # sharing work among idle workers never makes batches smaller than this
    is_padded: bool = False  # a batch costs its texts × the longest of them, not the sum of their tokens


@dataclass(frozen=True, slots=True)
class ExecutionPlan:
    """How a loaded model runs on this machine: chosen by its engine, obeyed by the scheduler, shown in the banner."""

    contexts: ContextPlanner
    limits: BatchLimits
    n_workers: int  # batches computed at once
    n_threads: int  # of the machine, shared by the workers
    alone_threads: int  # for a batch that has the machine to itself
    tokens_per_s: float  # a first estimate for all workers; the queue measures the real speed
    kernels: str  # what multiplies the matrices: "ggml", "AMX", "numpy"
    details: tuple[str, ...] = ()  # what else the engine chose, in words
    measured: bool = False  # on this machine, at warm-up


class EngineContext(Protocol):
    """Room to run one batch at a time over shared weights. Owned by one thread after `open_context`."""

    @property
    def spec(self) -> ContextSpec: ...

    def embed(self, batch: Sequence[Sequence[int]], n_threads: int) -> Output:
        """Run the token sequences together; the output has one part per sequence, in their order.

        Releases the GIL while it computes. Raises `EngineFailure` when the engine refuses the batch; never lets a size
        reach an assert of the engine.
        """
        ...

    def close(self) -> None: ...


class Engine(Protocol):
    """Loaded weights. Its methods may be called from any thread."""

    @property
    def info(self) -> EngineInfo: ...

    def open_context(self, spec: ContextSpec) -> EngineContext:
        """Raises `ModelFileError` or `NotSupported` where this model cannot run such a context."""
        ...

    def close(self) -> None:
        """Free the weights. Every context must be closed before."""
        ...


class TextCodec(Protocol):
    """Text to token ids and back, by the rules of a file's vocabulary. Any thread, until the engine is closed."""

    def vocabulary(self) -> Vocabulary:
        """Cheap: its entries are read when they are asked for (30,000 of them take some 15 ms)."""
        ...

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """Text to ids. `parse_special`: "[SEP]" in the text becomes that token."""
        ...

    def token_bytes(self, token: int) -> bytes:
        """The piece of text that one id stands for; special tokens in their written form.

        Raises `InvalidRequest` for an id outside the vocabulary.
        """
        ...

    def detokenize(self, tokens: Sequence[int]) -> str:
        """The text of a sequence. Raises `InvalidRequest` for an id outside the vocabulary."""
        ...


class ExactTokenizing(Protocol):
    """A codec of a file that carries the original tokenizer, so that nothing need be rebuilt from its vocabulary."""

    def tokenize_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`tokenize` of each, special tokens added and parsed, in one call. Any thread."""
        ...

    def tokenize_with_offsets(self, text: str) -> tuple[list[int], list[Span | None]]:
        """The same of one text, and which of its characters each token stands for; None: not known. Any thread."""
        ...


@dataclass(frozen=True, slots=True)
class ImageRows:
    """The answer for one text with images."""

    output: Output  # of one text
    n_tokens: int  # those of the images included


class ImageReader(Protocol):
    """A vision tower with a text model behind it. Owned by one thread after it was opened."""

    def embed(self, text: ImageInput, output: OutputSpec) -> ImageRows:
        """Read, check and compute one text with its images. Releases the GIL while it computes.

        Raises `InvalidRequest` for an image that cannot be read, `ImageInputTooLong`, `NotSupported`, `EngineFailure`.
        """
        ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class LoadSpec:
    """A model that a driver is asked to load."""

    header: GgufHeader  # of the file as the user gave it
    config: ModelConfig
    output: OutputSpec  # what it is served with
    cache_dir: Path  # for files that an engine derives from the model's
    report: Callable[[str], None] = field(compare=False)  # gets one line per thing that the user should know


@dataclass(frozen=True, slots=True)
class LoadedEngine:
    """What a driver loaded."""

    engine: Engine
    codec: TextCodec
    weights_type: str  # of the weights that run, e.g. "BF16"
    exact: ExactTokenizing | None = None  # the codec again, where the file carries the original tokenizer
    open_images: Callable[[], ImageReader] | None = None  # loads --mmproj; None: this engine reads no images


class EngineDriver(Protocol):
    """Everything that differs between engines. Stateless; methods may block and belong to a load thread."""

    @property
    def name(self) -> str: ...

    def refusal(self, header: GgufHeader) -> str | None:
        """Why this engine cannot run the file; None when it can."""
        ...

    def supports_gpu(self) -> bool:
        """Whether it can put weights on a GPU of this machine."""
        ...

    def memory_bytes(self, size_bytes: int) -> int:
        """An estimate, before it is loaded, of what a model whose file has `size_bytes` takes with all its contexts."""
        ...

    def load(self, spec: LoadSpec) -> LoadedEngine:
        """Choose the weights that run and load them. Raises `ModelFileError` or `ConfigError` with one clear line."""
        ...

    def plan(self, loaded: LoadedEngine, spec: LoadSpec, max_input_tokens: int) -> ExecutionPlan:
        """Warm up, measure where the configuration wants it, and size the workers."""
        ...
