"""Which models may be in memory at once, and when one leaves: decisions only, nothing is loaded or freed here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from gguf_embed.config import ModelConfig, PoolLimits
from gguf_embed.types import LoadOptions, ModelInfo

MAX_BATCH_TOKENS = 16_384
MAX_THREADS = 512
"""ggml's limit."""


@dataclass(frozen=True, slots=True)
class EvictionCandidate:
    """One model in memory, as the decisions see it."""

    key: str
    memory_bytes: int
    n_leases: int  # requests that use it now
    last_used_s: float
    unloading: bool = False  # is being unloaded: its room is not free yet


@dataclass(frozen=True, slots=True)
class EvictionPlan:
    """What must happen before one more model can be loaded."""

    evict: tuple[str, ...] = ()  # unload these, then decide again
    wait: bool = False  # nothing can be done now: decide again when a model goes idle or is gone
    impossible: bool = False  # it is too large for the limit, alone


def plan_eviction(candidates: Sequence[EvictionCandidate], need_bytes: int, limits: PoolLimits) -> EvictionPlan:
    """Make room for a model of `need_bytes`: the least recently used idle models leave, one in use never does.

    Nothing is evicted in vain: where unloading all idle models would not do, the plan is to wait.
    """
    if limits.max_bytes is not None and need_bytes > limits.max_bytes:
        return EvictionPlan(impossible=True)
    if _fits(candidates, need_bytes, limits):
        return EvictionPlan()
    staying = [candidate for candidate in candidates if not candidate.unloading]
    if _fits(staying, need_bytes, limits):
        return EvictionPlan(wait=True)  # those that are unloading make room enough
    evict: list[str] = []
    for victim in sorted((o for o in staying if o.n_leases == 0), key=lambda o: o.last_used_s):
        evict.append(victim.key)
        staying.remove(victim)
        if _fits(staying, need_bytes, limits):
            return EvictionPlan(tuple(evict))
    return EvictionPlan(wait=True)


def _fits(candidates: Sequence[EvictionCandidate], need_bytes: int, limits: PoolLimits) -> bool:
    if limits.max_models and len(candidates) >= limits.max_models:
        return False
    taken = sum(candidate.memory_bytes for candidate in candidates)
    return limits.max_bytes is None or taken + need_bytes <= limits.max_bytes


def seconds_left(last_used_s: float, keep_alive_s: float, now_s: float) -> float | None:
    """How long an idle model may stay; 0 when its time is up, None forever."""
    return None if math.isinf(keep_alive_s) else max(0.0, last_used_s + keep_alive_s - now_s)


def with_options(config: ModelConfig, options: LoadOptions, has_gpu: bool) -> ModelConfig:
    """The configuration with a request's wishes in it; out of range, the nearest that is possible."""
    compute = config.compute
    if options.n_threads is not None:
        n_threads = min(max(1, options.n_threads), MAX_THREADS)
        compute = replace(compute, n_threads=n_threads, n_workers=None, alone_threads=None)
    if options.batch_tokens is not None:
        compute = replace(compute, batch_tokens=min(max(1, options.batch_tokens), MAX_BATCH_TOKENS))
    if options.n_gpu_layers is not None and has_gpu:
        compute = replace(compute, offload=replace(compute.offload, n_gpu_layers=max(-1, options.n_gpu_layers)))
    n_ctx = config.n_ctx if options.n_ctx is None else max(options.n_ctx, config.n_ctx)
    return replace(config, compute=compute, n_ctx=n_ctx)


def needs_reload(loaded: ModelConfig, info: ModelInfo, asked: LoadOptions, has_gpu: bool) -> bool:
    """Whether a loaded model must be loaded anew for these options.

    A shorter `n_ctx` needs none: it is a limit on each text of the request. Options that are not given never do.
    """
    wider = asked.n_ctx is not None and asked.n_ctx > info.max_input_tokens and info.max_input_tokens < info.n_ctx_train
    return wider or with_options(loaded, replace(asked, n_ctx=None), has_gpu).compute != loaded.compute
