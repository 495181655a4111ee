"""The contract between the scheduler and whatever runs a model. No llama.cpp type crosses it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from gguf_embed.types import FloatMatrix, ImageInput, Pooling, Span, Vocabulary


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
    n_cls_out: int  # width of the rank head's answer; 0 without a rank head
    vocab_type: int
    bos_token: str
    eos_token: str
    labels: tuple[str, ...] = ()  # what the rank head's numbers stand for; () when the file does not say
    has_second_text: bool = False  # with pooling rank, id + n_vocab is the same token in a pair's second text


@dataclass(frozen=True, slots=True)
class ContextSpec:
    """What a context is asked to be able to run. The engine checks every batch against it."""

    pooling: Pooling
    max_tokens: int  # summed over one batch
    max_sequences: int  # texts in one batch, 1..256
    flash_attention: bool = True


@dataclass(frozen=True, slots=True)
class ImageSpec:
    """What an image context is asked to be able to run."""

    mmproj: Path  # file of the vision tower
    max_tokens: int  # of one text with its images
    n_threads: int
    use_gpu: bool = False
    part_tokens: int = 512  # computed at once: each writes logits over the vocabulary where its row is read


@dataclass(frozen=True, slots=True)
class ImageRows:
    """The answer for one text with images."""

    rows: FloatMatrix  # float32[1, n_embd] when pooled, float32[n_tokens, n_embd] when pooling is none
    n_tokens: int  # those of the images included


class ImageReader(Protocol):
    """A vision tower with a text model behind it. Owned by one thread after it was opened."""

    def embed(self, text: ImageInput, pooling: Pooling) -> ImageRows:
        """Read, check and compute one text with its images. Releases the GIL while it computes.

        Raises `InvalidRequest` for an image that cannot be read, `ImageInputTooLong`, `NotSupported`, `EngineFailure`.
        """
        ...

    def close(self) -> None: ...


class EngineContext(Protocol):
    """Room to run one batch at a time over shared weights. Owned by one thread after `open_context`."""

    @property
    def spec(self) -> ContextSpec: ...

    def embed(self, batch: Sequence[Sequence[int]], n_threads: int) -> FloatMatrix:
        """Run the token sequences together; rows come back in their order.

        Returns float32[len(batch), n_embd] when pooled, float32[total tokens, n_embd] when pooling is none,
        float32[len(batch), n_cls_out] when pooling is rank. Releases the GIL while it computes.
        Raises `EngineFailure` when the engine refuses the batch; never lets a size reach an engine assert.
        """
        ...

    def close(self) -> None: ...


class Engine(Protocol):
    """Loaded weights and their vocabulary. Its methods may be called from any thread."""

    @property
    def info(self) -> EngineInfo: ...

    def vocabulary(self) -> Vocabulary:
        """Cheap: its entries are read when they are asked for (30,000 of them take some 15 ms)."""
        ...

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """Text to ids by the engine's own vocabulary rules. `parse_special`: "[SEP]" in the text becomes that token."""
        ...

    def token_bytes(self, token: int) -> bytes:
        """The piece of text that one id stands for; special tokens in their written form.

        Raises `InvalidRequest` for an id outside the vocabulary.
        """
        ...

    def detokenize(self, tokens: Sequence[int]) -> str:
        """The text of a sequence. Raises `InvalidRequest` for an id outside the vocabulary."""
        ...

    def open_context(self, spec: ContextSpec) -> EngineContext:
        """Raises `ModelFileError` or `NotSupported` where this model cannot run such a context."""
        ...

    def close(self) -> None:
        """Free the weights. Every context must be closed before."""
        ...


@runtime_checkable
class ExactTokenizing(Protocol):
    """An engine whose file carries the original tokenizer, so that nothing need be rebuilt from its vocabulary."""

    def tokenize_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`tokenize` of each, special tokens added and parsed, in one call. Any thread."""
        ...

    def tokenize_with_offsets(self, text: str) -> tuple[list[int], list[Span | None]]:
        """The same of one text, and which of its characters each token stands for; None: not known. Any thread."""
        ...
