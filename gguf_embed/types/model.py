"""What is known of a model, and how it may be loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from gguf_embed.types.outputs import OutputSpec, Pooling


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
    license: str = ""  # as the file or the catalog names it, e.g. "apache-2.0"
    n_scores: int = 0  # numbers that its rank head gives per text; 0: it has none and cannot rerank
    labels: tuple[str, ...] = ()  # what these numbers stand for; () when the file does not say
    rerank_template: str = ""  # the text that a query and a document are put into; "": one after the other
    reads_images: bool = False  # it was given a vision tower
    output: OutputSpec = field(init=False)  # what a request gets that does not ask for another: by `pooling`

    def __post_init__(self) -> None:
        object.__setattr__(self, "output", OutputSpec.of(self.pooling))


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
class LoadOptions:
    """How a request wants its model loaded (Ollama's `options`). None: as the server was started, or as it is now."""

    n_ctx: int | None = None  # longest text in tokens
    n_threads: int | None = None
    n_gpu_layers: int | None = None  # -1: all
    batch_tokens: int | None = None


NO_LOAD_OPTIONS = LoadOptions()
