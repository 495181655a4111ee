"""Facts about a model, and the options it can be loaded with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from gguf_embed.types.outputs import LISTWISE, MULTIVECTOR, SCORES, SPARSE, OutputSpec, Pooling


@dataclass(frozen=True, slots=True)
class FileProblem:
    """What is wrong with a model's file, so that its answers are, and what to do about it."""

    code: str  # stable, for programs: "bos_not_added"
    message: str
    fix: str


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """Facts about a served model: everything that a client may ask about it."""

    name: str  # the id in replies
    aliases: tuple[str, ...]  # its other names
    path: Path | None
    architecture: str  # the GGUF's general.architecture
    description: str  # llama.cpp's own, e.g. "bert 22M F16"
    file_type: str  # type of the weights in the file, e.g. "F16"
    weights_type: str  # type of the weights that run, e.g. "BF16" or "BF16, layers 1-3 F32"
    pooling: Pooling
    embd_normalize: int  # -1 none, 0 max-abs int16, 1 taxicab, 2 Euclidean, p > 2 p-norm
    n_embd: int  # numbers per vector, with any pooling
    n_vocab: int
    n_ctx_train: int  # positions the model was trained for
    n_ctx: int  # the configured limit; n_ctx_train if none is configured
    max_input_tokens: int  # the limit that applies to a text, special tokens included
    n_params: int
    size_bytes: int
    vocab_type: int  # llama.cpp's llama_vocab_type
    bos_token: str
    eos_token: str
    tokenizer: str  # "exact" (the model's own rules) or "llama" (llama.cpp's)
    causal: bool  # a decoder: its KV memory is cleared before each batch
    prompts: Mapping[str, str] = field(default_factory=dict)  # the model's own prefixes by name: "query", "document"…
    tasks: tuple[str, ...] = ()  # it has an adapter for each; the prompt of the same name chooses it
    matryoshka: tuple[int, ...] = ()  # dimensions that vectors can be cut to by training; empty: none known
    license: str = ""  # as the file or the catalog names it, e.g. "apache-2.0"
    n_scores: int = 0  # numbers per text from its rank head; 0: no rank head, so it cannot rerank
    labels: tuple[str, ...] = ()  # what these numbers stand for; () if the file does not name them
    rerank_template: str = ""  # template for a query and a document; "": they are concatenated
    reads_images: bool = False  # served with a vision tower
    engine: str = ""  # that runs it: "openvino", "llama" or "static"; "" until the model has been loaded once
    kernels: str = ""  # what multiplies its matrices, e.g. "AMX"; "" until the model has been loaded once
    head_outputs: tuple[
        str, ...
    ] = ()  # kinds of output that its heads on token rows give: "multivector", "sparse", "listwise"
    problems: tuple[FileProblem, ...] = ()  # serious ones of the file, as far as its header shows them
    output: OutputSpec = field(init=False)  # the default for requests, from `pooling` and `head_outputs`

    def __post_init__(self) -> None:
        output = OutputSpec(SCORES) if LISTWISE in self.head_outputs else OutputSpec.of(self.pooling)
        object.__setattr__(self, "output", output)

    @property
    def reranks(self) -> bool:
        """Whether it gives documents a score for a query: by a rank head, by MaxSim, or by a listwise head."""
        return bool(self.n_scores) or not {MULTIVECTOR, LISTWISE}.isdisjoint(self.head_outputs)

    @property
    def is_sparse_only(self) -> bool:
        """Whether it has no network, as BM25: there are no rows that could be pooled."""
        return self.n_embd == 0 and self.head_outputs == (SPARSE,)


@dataclass(frozen=True, slots=True)
class EngineProcessState:
    """The process that a loaded model's engine runs in, if it has one of its own."""

    state: Literal["running", "restarting"]
    pid: int  # 0 while it is restarting
    n_restarts: int
    last_end: str  # how the last one ended: "ended by SIGSEGV"; "": none has ended


@dataclass(frozen=True, slots=True)
class ComputePlan:
    """How a loaded model is computed on this machine."""

    n_workers: int  # batches at the same time
    n_threads: int  # of all of them together
    alone_threads: int  # of a batch that runs alone
    batch_tokens: int
    details: tuple[str, ...]  # other choices of the engine, in words
    measured: bool  # at warm-up


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """One model that this process serves, loaded or not."""

    info: ModelInfo  # read from the file's header alone until the model has been loaded once
    digest: str  # sha256 of the file's content, 64 hexadecimal digits
    modified_unix_s: float
    state: Literal["unloaded", "loading", "loaded"]
    memory_bytes: int = 0  # estimate while loaded
    gpu_bytes: int = 0  # the part of it on a GPU
    expires_unix_s: float | None = None  # when it will be unloaded unless it is used; None: never, or not loaded
    process: EngineProcessState | None = None  # None: not loaded, or its engine runs in the server's process
    compute: ComputePlan | None = None  # None: not loaded


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """How a request wants its model loaded (Ollama's `options`). None: the server's setting, or as it is loaded now."""

    n_ctx: int | None = None  # longest text in tokens
    n_threads: int | None = None
    n_gpu_layers: int | None = None  # -1: all
    batch_tokens: int | None = None


NO_LOAD_OPTIONS = LoadOptions()

ModelCheck = Callable[[ModelInfo], None]
"""Called with a model's facts before it is loaded; raises an `EmbedError` to refuse it."""
