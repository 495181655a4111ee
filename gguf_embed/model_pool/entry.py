"""The pool's values: a request's load options, an entry for one model in memory, and a lease on it."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol

from gguf_embed.engines.base import ExecutionPlan
from gguf_embed.errors import EmbedError, EngineFailure, ModelLoadFailed
from gguf_embed.model_pool.eviction import EvictionCandidate, seconds_left
from gguf_embed.model_pool.loading import LoadedModel
from gguf_embed.model_pool.served_models import ModelSpec
from gguf_embed.model_store.names import without_folders
from gguf_embed.types import NO_LOAD_OPTIONS, ComputePlan, LoadOptions, ModelInfo, ModelStatus


class PoolObserver(Protocol):
    """Counts loads and unloads, for metrics."""

    def observe_load(self, outcome: Literal["ok", "failed"], duration_s: float) -> None: ...

    def observe_unload(self, reason: str) -> None: ...


class Timer(Protocol):
    """Calls something once, later, unless it is canceled first."""

    def cancel(self) -> None: ...


def start_loop_timer(delay_s: float, action: Callable[[], None]) -> Timer:
    """A timer of the running event loop."""
    return asyncio.get_running_loop().call_later(delay_s, action)


@dataclass(frozen=True, slots=True)
class LoadRequest:
    """How a request wants its model loaded. None: the pool's configuration."""

    keep_alive_s: float | None = None
    options: LoadOptions = NO_LOAD_OPTIONS


DEFAULT_LOAD = LoadRequest()


@dataclass(slots=True, eq=False)
class PoolEntry:
    """One model in memory. Belongs to the pool, on the event loop."""

    spec: ModelSpec
    ready: asyncio.Future[None]  # done when the load is over; shared by all requests that wait for it
    memory_bytes: int
    keep_alive_s: float
    last_used_s: float
    options: LoadOptions = NO_LOAD_OPTIONS  # of the request that loaded it
    model: LoadedModel | None = None  # None while loading
    failure: EmbedError | None = None  # why the load failed
    n_leases: int = 0
    retired: bool = False  # gets no new leases: it will be reloaded, or its file is gone
    unloading: bool = False
    timer: Timer | None = field(default=None, repr=False)
    timer_s: float = 0.0  # when it ends, by the pool's clock

    async def loaded(self) -> LoadedModel:
        """The model once it is loaded. Each waiter gets an error of its own: a shared one would keep their requests."""
        await asyncio.wait({self.ready})
        if self.model is None:
            assert self.failure is not None
            raise ModelLoadFailed(self.failure.message, self.failure.ways_out)
        return self.model

    def candidate(self) -> EvictionCandidate:
        return EvictionCandidate(self.spec.key, self.memory_bytes, self.n_leases, self.last_used_s, self.unloading)


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to use a loaded model. It stays loaded until the lease is released."""

    model: LoadedModel
    spec: ModelSpec
    load_s: float  # seconds this request waited for the load


def status_of(spec: ModelSpec, info: ModelInfo, entry: PoolEntry | None, now_s: float) -> ModelStatus:
    """The state of a model that has this entry in the pool, or none. `now_s`: by the pool's clock."""
    if entry is None or entry.unloading:
        return ModelStatus(info, spec.digest, spec.modified_unix_s, "unloaded")
    model = entry.model
    left_s = seconds_left(entry.last_used_s, entry.keep_alive_s, now_s)
    if left_s is not None and entry.n_leases:
        left_s = entry.keep_alive_s
    return ModelStatus(
        info,
        spec.digest,
        spec.modified_unix_s,
        "loading" if model is None else "loaded",
        memory_bytes=entry.memory_bytes,
        gpu_bytes=entry.memory_bytes if model is not None and model.config.compute.offload.n_gpu_layers else 0,
        expires_unix_s=None if left_s is None or math.isinf(left_s) else time.time() + left_s,
        process=None if model is None else model.process_state(),
        compute=None if model is None else _compute_plan(model.scheduler.plan),
    )


def _compute_plan(plan: ExecutionPlan) -> ComputePlan:
    return ComputePlan(
        plan.n_workers, plan.n_threads, plan.alone_threads, plan.limits.max_tokens, plan.details, plan.measured
    )


def load_failure(spec: ModelSpec, error: BaseException) -> EmbedError:
    """The error for everyone who waited."""
    known = error if isinstance(error, EmbedError) else EngineFailure(f"{type(error).__name__}: see the server's log")
    files = [path for path in (spec.path, spec.config.mmproj) if path is not None]
    reason = without_folders(known.message, files)
    return ModelLoadFailed(f"model {spec.info.name!r} cannot be loaded: {reason}", known.ways_out)
