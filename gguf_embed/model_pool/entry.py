"""The pool's words: what it may hold, what a request wishes, one model in memory and the right to use it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Literal, Protocol

from gguf_embed.model_pool.eviction import EvictionCandidate
from gguf_embed.model_pool.loading import LoadedModel
from gguf_embed.model_pool.registry import ModelSpec
from gguf_embed.types import NO_LOAD_OPTIONS, LoadOptions


class PoolObserver(Protocol):
    """Who counts loads (metrics)."""

    def observe_load(self, outcome: Literal["ok", "failed"], duration_s: float) -> None: ...

    def observe_unload(self, reason: str) -> None: ...


class Timer(Protocol):
    """Calls something once, later, unless it is canceled first."""

    def cancel(self) -> None: ...


@dataclass(frozen=True, slots=True)
class LoadRequest:
    """How a request wants its model. None: as the pool's configuration says."""

    keep_alive_s: float | None = None
    options: LoadOptions = NO_LOAD_OPTIONS


DEFAULT_LOAD = LoadRequest()


@dataclass(slots=True, eq=False)
class PoolEntry:
    """Touched by the pool only, on the event loop."""

    spec: ModelSpec
    ready: asyncio.Future[LoadedModel]  # everyone who wants the model waits for the same load
    memory_bytes: int
    keep_alive_s: float
    last_used_s: float
    options: LoadOptions = NO_LOAD_OPTIONS  # what requests wished for when it was loaded
    model: LoadedModel | None = None  # None while it is loading
    n_leases: int = 0
    retired: bool = False  # nobody new gets it: it is to be loaded anew, or was deleted
    unloading: bool = False  # is being unloaded
    timer: Timer | None = field(default=None, repr=False)
    timer_s: float = 0.0  # when it ends, by the pool's clock

    def candidate(self) -> EvictionCandidate:
        return EvictionCandidate(self.spec.key, self.memory_bytes, self.n_leases, self.last_used_s, self.unloading)


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to use a loaded model until it is given back."""

    model: LoadedModel
    spec: ModelSpec
    load_s: float  # waited for it to be loaded
