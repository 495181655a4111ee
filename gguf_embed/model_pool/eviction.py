"""Decides which models may be in memory together, and when one is unloaded. Pure: nothing is loaded or freed here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from gguf_embed.config import ModelConfig, PoolLimits
from gguf_embed.engines.cpu_count import n_processors, threads_for
from gguf_embed.errors import Unavailable, WayOut
from gguf_embed.types import LoadOptions, ModelInfo

MAX_BATCH_TOKENS = 16_384
"""ggml's limit."""


@dataclass(frozen=True, slots=True)
class EvictionCandidate:
    """What the decisions need to know about one model in memory."""

    key: str
    memory_bytes: int
    n_leases: int  # requests that are using it
    last_used_s: float
    unloading: bool = False  # its memory is not free yet


@dataclass(frozen=True, slots=True)
class EvictionPlan:
    """What must happen before one more model can be loaded."""

    evict: tuple[str, ...] = ()  # unload these, then decide again
    wait: bool = False  # nothing to do now: decide again when a model becomes idle or has been unloaded
    impossible: bool = False  # the model alone exceeds the limit


def plan_eviction(candidates: Sequence[EvictionCandidate], need_bytes: int, limits: PoolLimits) -> EvictionPlan:
    """Make room for a model of `need_bytes` by evicting the least recently used idle models, never one in use.

    If evicting all idle models would not be enough, none is evicted and the plan is to wait.
    """
    if limits.max_bytes is not None and need_bytes > limits.max_bytes:
        return EvictionPlan(impossible=True)
    if _fits(candidates, need_bytes, limits):
        return EvictionPlan()
    staying = [candidate for candidate in candidates if not candidate.unloading]
    if _fits(staying, need_bytes, limits):
        return EvictionPlan(wait=True)  # enough memory will be free once the current unloads are done
    evict: list[str] = []
    idle = [candidate for candidate in staying if candidate.n_leases == 0]
    for victim in sorted(idle, key=lambda candidate: candidate.last_used_s):
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


def too_large(name: str, need_bytes: int, limits: PoolLimits) -> Unavailable:
    """The error for a model that alone exceeds the limit."""
    return Unavailable(
        f"model {name!r} takes about {_in_words(need_bytes)}, the limit for all models together is "
        f"{_in_words(limits.max_bytes or 0)}",
        [WayOut.MORE_MEMORY],
    )


def _in_words(n_bytes: int) -> str:
    return f"{n_bytes / 2**20:,.0f} MiB" if n_bytes >= 2**20 else f"{n_bytes:,} bytes"


def seconds_left(last_used_s: float, keep_alive_s: float, now_s: float) -> float | None:
    """How long an idle model may stay loaded: 0 if its time is up, None forever."""
    return None if math.isinf(keep_alive_s) else max(0.0, last_used_s + keep_alive_s - now_s)


def with_options(config: ModelConfig, options: LoadOptions, has_gpu: bool) -> ModelConfig:
    """The configuration with a request's options applied. Values out of range are clamped."""
    compute = config.compute
    if options.n_threads is not None:
        most = max(threads_for(compute), n_processors())  # buffers grow with the threads
        n_threads = min(max(1, options.n_threads), most)
        compute = replace(compute, n_threads=n_threads, n_workers=None, alone_threads=None)
    if options.batch_tokens is not None:
        compute = replace(compute, batch_tokens=min(max(1, options.batch_tokens), MAX_BATCH_TOKENS))
    if options.n_gpu_layers is not None and has_gpu:
        compute = replace(compute, offload=replace(compute.offload, n_gpu_layers=max(-1, options.n_gpu_layers)))
    n_ctx = config.n_ctx if options.n_ctx is None else max(options.n_ctx, config.n_ctx)
    return replace(config, compute=compute, n_ctx=n_ctx)


def needs_reload(loaded: ModelConfig, info: ModelInfo, options: LoadOptions, has_gpu: bool) -> bool:
    """Whether a loaded model must be reloaded for these options.

    A shorter `n_ctx` needs no reload: it only limits the texts of the request. An option that is None never needs one.
    """
    n_ctx, limit = options.n_ctx, info.max_input_tokens
    wider = n_ctx is not None and n_ctx > limit and limit < info.n_ctx_train
    return wider or with_options(loaded, replace(options, n_ctx=None), has_gpu).compute != loaded.compute
