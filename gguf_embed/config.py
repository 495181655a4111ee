"""Settings as frozen values. `cli/` builds them once, from flags and environment variables."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from gguf_embed.types import Pooling


@dataclass(frozen=True, slots=True)
class OffloadConfig:
    """Where the weights go. The names are llama.cpp's."""

    n_gpu_layers: int = 0  # -1: all
    main_gpu: int = 0
    split_mode: Literal["none", "layer", "row", "tensor"] = "layer"
    tensor_split: tuple[float, ...] = ()
    devices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ComputeConfig:
    """How batches are computed. None: measured and chosen at warm-up."""

    n_threads: int | None = None  # in total; None: the processors this process may use
    alone_threads: int | None = None  # for a batch that has the machine to itself
    n_workers: int | None = None  # batches computed at once, each with an equal share of the threads
    batch_tokens: int | None = None  # total tokens in one batch
    flash_attention: Literal["on", "off", "auto"] = "auto"
    weights: Literal["auto", "file", "bf16"] = "auto"  # auto: F32 and F16 become BF16 where that is faster
    engine: str = "auto"  # a driver's name; auto: the fastest of those that accept the file
    precision: Literal["auto", "f32", "bf16"] = "auto"  # of matrix products; auto: bf16 where it is fast and harmless
    float32_layers: tuple[int, ...] = ()  # with bf16, from 0: those measured to need float32; for estimates of memory
    amx: bool = True  # multiply BF16 matrices on AMX tiles where the CPU has them
    offload: OffloadConfig = field(default_factory=OffloadConfig)


@dataclass(frozen=True, slots=True)
class QueueConfig:
    """How much work may wait for one model, and how long a request waits for room in its queue, or to be tokenized."""

    max_tokens: int | None = None  # None: what is computed in `max_s`
    max_s: float = 60.0
    max_wait_s: float = 5.0  # 0: refuse at once


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """One model to serve."""

    aliases: tuple[str, ...] = ()  # the first becomes the served name
    pooling: Pooling | None = None  # None: the file's
    n_ctx: int = 0  # the longest text, in tokens; 0: what the model was trained for
    embd_normalize: int = 2
    tokenizer: Literal["auto", "llama"] = "auto"
    truncate: bool = False
    strict_name: bool = False
    strict_file: bool = False  # refuse a file with a serious problem
    warmup: bool = True
    isolate: bool = False  # run the engine in a supervised process of its own
    queue: QueueConfig = field(default_factory=QueueConfig)
    mmproj: Path | None = None  # file of the vision tower; None: text only
    compute: ComputeConfig = field(default_factory=ComputeConfig)


@dataclass(frozen=True, slots=True)
class CacheConfig:
    """How much of what was computed is kept, see `output_cache/`. 0: nothing."""

    memory_bytes: int = 0
    disk_bytes: int = 0


@dataclass(frozen=True, slots=True)
class PoolLimits:
    """Limits for all loaded models together."""

    max_models: int = 4  # 0: no limit
    max_bytes: int | None = None  # None: no limit


@dataclass(frozen=True, slots=True)
class PoolConfig:
    """How many models may stay loaded, and how long when idle. `keep_alive_s` inf: forever; 0: unload at once."""

    limits: PoolLimits = field(default_factory=PoolLimits)
    keep_alive_s: float = 300.0
    named_keep_alive_s: float | None = None  # of models named at the start; None: the same

    def keep_alive_of(self, *, is_named: bool) -> float:
        named_s = self.named_keep_alive_s
        return self.keep_alive_s if named_s is None or not is_named else named_s
