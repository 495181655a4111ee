"""The pool of loaded models: each is loaded on first use and unloaded when idle, never while a request uses it."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Callable, Collection, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from gguf_embed.config import PoolConfig
from gguf_embed.errors import EmbedError, Unavailable, WayOut
from gguf_embed.model_pool.entry import (
    DEFAULT_LOAD,
    Lease,
    LoadRequest,
    PoolEntry,
    PoolObserver,
    Timer,
    load_failure,
    start_loop_timer,
    status_of,
)
from gguf_embed.model_pool.eviction import needs_reload, plan_eviction, seconds_left, too_large
from gguf_embed.model_pool.loader import ModelLoader
from gguf_embed.model_pool.loading import LoadedModel
from gguf_embed.model_pool.model_info import under_served_names
from gguf_embed.model_pool.served_models import Identity, ModelSpec
from gguf_embed.types import NO_LOAD_OPTIONS, LoadOptions, ModelInfo, ModelStatus

logger = logging.getLogger(__name__)

EVICTION_TIMEOUT_S = 60.0
"""How long a request waits for memory while all loaded models are in use."""


class ModelPool:
    """Owns all loaded models. All methods belong to one event loop; models are loaded and freed on threads.

    `start_timer` calls an action once after so many seconds of `clock`.
    """

    def __init__(
        self,
        loader: ModelLoader,
        config: PoolConfig,
        observer: PoolObserver,
        clock: Callable[[], float] = time.monotonic,
        start_timer: Callable[[float, Callable[[], None]], Timer] = start_loop_timer,
    ) -> None:
        self._loader = loader
        self._config = config
        self._observer = observer
        self._clock = clock
        self._start_timer = start_timer
        self._entries: dict[str, PoolEntry] = {}
        self._infos: dict[str, tuple[Identity, ModelInfo]] = {}  # of all models that have been loaded once
        self._waiting: list[asyncio.Future[bool]] = []  # True: something changed, False: too late
        self._tasks: set[asyncio.Task[None]] = set()
        self._threads = ThreadPoolExecutor(max_workers=64, thread_name_prefix="load")  # started as they are needed
        self._closed = False

    @asynccontextmanager
    async def lease(self, spec: ModelSpec, wish: LoadRequest = DEFAULT_LOAD) -> AsyncIterator[Lease]:
        """Use a model, which is loaded first if necessary and stays loaded at least until the block ends.

        If the load fails, everyone who waits for it gets `ModelLoadFailed`; the next request tries again.
        Raises `Unavailable` if the model does not fit, or if no memory became free in time.
        """
        started_s = self._clock()
        entry, waited = await self._acquire(spec, wish)
        try:
            model = entry.model
            if model is None:
                waited = True
                model = await entry.loaded()
            yield Lease(model, entry.spec, self._clock() - started_s if waited else 0.0)
        finally:
            self._release(entry)

    async def _acquire(self, spec: ModelSpec, wish: LoadRequest) -> tuple[PoolEntry, bool]:
        """An entry with one more lease, and whether this had to wait."""
        deadline_s: float | None = None
        while True:
            entry = self._entries.get(spec.key)
            if entry is not None and self._is_compatible(entry, spec, wish.options):
                break
            if entry is None and (entry := self._load_if_room(spec, wish)) is not None:
                break
            deadline_s = deadline_s or self._clock() + EVICTION_TIMEOUT_S
            await self._next_change(deadline_s)
        entry.n_leases += 1
        if wish.keep_alive_s is not None:
            entry.keep_alive_s = wish.keep_alive_s
        return entry, deadline_s is not None

    def _is_compatible(self, entry: PoolEntry, spec: ModelSpec, options: LoadOptions) -> bool:
        """Whether an entry can be used as it is. If not, it is retired: no new leases, unloaded when idle."""
        if entry.unloading or entry.retired:
            return False
        if entry.spec.identity == spec.identity:
            if options in (NO_LOAD_OPTIONS, entry.options):
                return True
            model = entry.model
            if model is None:
                return False  # only known once it is loaded
            if not needs_reload(model.config, model.info, options, self._loader.has_gpu()):
                return True
        self._retire(entry)
        return False

    def _load_if_room(self, spec: ModelSpec, wish: LoadRequest) -> PoolEntry | None:
        """A new entry that is loading; None if memory must become free first, after starting the evictions for it."""
        if self._closed:
            raise Unavailable("the server is shutting down")
        need = spec.memory_bytes
        limits = self._config.limits
        plan = plan_eviction([entry.candidate() for entry in self._entries.values()], need, limits)
        if plan.impossible:
            raise too_large(spec.info.name, need, limits)
        if plan.wait:
            return None
        for key in plan.evict:
            self._unload(self._entries[key], "room")
        return None if plan.evict else self._start_load(spec, wish, need)

    def _start_load(self, spec: ModelSpec, wish: LoadRequest, memory_bytes: int) -> PoolEntry:
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        keep_alive_s = self._config.keep_alive_of(is_named=spec.origin == "named")
        entry = PoolEntry(spec, ready, memory_bytes, keep_alive_s, self._clock(), options=wish.options)
        self._entries[spec.key] = entry
        self._run(self._load(entry))
        return entry

    async def _load(self, entry: PoolEntry) -> None:
        loop, spec = asyncio.get_running_loop(), entry.spec
        started_s = self._clock()
        is_alone = len(self._entries) == 1
        try:
            before = self._loader.held_bytes()
            model = await loop.run_in_executor(self._threads, self._loader.load, spec, entry.options)
        except BaseException as error:
            if not isinstance(error, EmbedError):
                logger.exception("loading %s failed", spec.info.name)
            self._observer.observe_load("failed", self._clock() - started_s)
            del self._entries[spec.key]
            entry.failure = load_failure(spec, error)
            entry.ready.set_result(None)
            if not isinstance(error, Exception):
                raise
        else:
            if is_alone:
                entry.memory_bytes = max(entry.memory_bytes, self._loader.held_bytes() - before)
            self._observer.observe_load("ok", self._clock() - started_s)
            self._infos[spec.key] = spec.identity, under_served_names(model.info, spec.info)
            entry.model = model
            entry.ready.set_result(None)
            logger.info("loaded %s in %.1f s", spec.info.name, self._clock() - started_s)
            if entry.n_leases == 0:
                self._on_idle(entry)
        self._notify()

    def _release(self, entry: PoolEntry) -> None:
        entry.n_leases -= 1
        if entry.n_leases == 0 and entry.model is not None:
            self._on_idle(entry)

    def _on_idle(self, entry: PoolEntry) -> None:
        """Called when an entry becomes idle: unload it now, or schedule its expiry."""
        entry.last_used_s = self._clock()
        if entry.retired:
            self._unload(entry, "replaced")
        elif entry.keep_alive_s <= 0:
            self._unload(entry, "keep_alive")
        else:
            self._schedule_expiry(entry)
        if self._waiting:
            self._notify()

    def _schedule_expiry(self, entry: PoolEntry) -> None:
        """Keep one timer per entry. If it fires early because the model was used again, it is restarted."""
        if entry.timer is None and math.isinf(entry.keep_alive_s):
            return
        now_s = self._clock()
        left_s = seconds_left(entry.last_used_s, entry.keep_alive_s, now_s)
        if entry.timer is not None:
            if left_s is not None and entry.timer_s <= now_s + left_s:
                return
            entry.timer.cancel()
            entry.timer = None
        if left_s is not None:
            entry.timer = self._start_timer(left_s, partial(self._check_expiry, entry))
            entry.timer_s = now_s + left_s

    def _check_expiry(self, entry: PoolEntry) -> None:
        entry.timer = None
        if entry.n_leases or entry.unloading or entry.model is None:
            return
        if seconds_left(entry.last_used_s, entry.keep_alive_s, self._clock()) == 0:
            self._unload(entry, "keep_alive")
        else:
            self._schedule_expiry(entry)

    def _retire(self, entry: PoolEntry) -> None:
        """Give out no new leases, and unload the entry as soon as no request uses it."""
        entry.retired = True
        if entry.n_leases == 0 and entry.model is not None:
            self._unload(entry, "replaced")

    def _unload(self, entry: PoolEntry, reason: str) -> None:
        if entry.unloading:
            return
        entry.unloading = True
        if entry.timer is not None:
            entry.timer.cancel()
            entry.timer = None
        self._observer.observe_unload(reason)
        self._run(self._free(entry))

    async def _free(self, entry: PoolEntry) -> None:
        model = entry.model
        if model is not None:
            await asyncio.get_running_loop().run_in_executor(self._threads, model.close)
            logger.info("unloaded %s", entry.spec.info.name)
        del self._entries[entry.spec.key]
        self._notify()

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _next_change(self, deadline_s: float) -> None:
        """Wait until a model is idle, loaded or unloaded. Raises `Unavailable` at the deadline."""
        waiter: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        timer = self._start_timer(max(0.0, deadline_s - self._clock()), partial(_wake, waiter, False))
        self._waiting.append(waiter)
        try:
            in_time = await waiter
        finally:
            timer.cancel()
            self._waiting.remove(waiter)
        if not in_time:
            raise Unavailable(
                f"timed out after {EVICTION_TIMEOUT_S:g} s waiting for memory: all loaded models are in use",
                [WayOut.RETRY, WayOut.MORE_MODELS, WayOut.MORE_MEMORY],
            )

    def _notify(self) -> None:
        for waiter in self._waiting:
            _wake(waiter, True)

    def unload(self, key: str, keep_alive_s: float = 0.0) -> None:
        """Unload a model as soon as no request uses it. Does nothing if it is not loaded."""
        entry = self._entries.get(key)
        if entry is None or entry.unloading:
            return
        entry.keep_alive_s = keep_alive_s
        if entry.n_leases == 0 and entry.model is not None:
            self._unload(entry, "asked")

    def retain(self, keys: Collection[str]) -> None:
        """Retire every model whose key is not in `keys`, because its file is gone."""
        for entry in list(self._entries.values()):
            if entry.spec.key not in keys:
                self._retire(entry)

    def status(self, spec: ModelSpec) -> ModelStatus:
        """A model's current state. Never loads it."""
        return status_of(spec, self.info(spec), self._entries.get(spec.key), self._clock())

    def info(self, spec: ModelSpec) -> ModelInfo:
        """The facts about a model. More of them are known once it has been loaded."""
        found = self._infos.get(spec.key)
        return found[1] if found is not None and found[0] == spec.identity else spec.info

    def loaded(self) -> list[LoadedModel]:
        """All models that are ready now."""
        return [model for entry in self._entries.values() if (model := entry.model) is not None]

    async def close(self) -> None:
        """Load no more models, and free everything once accepted work is done."""
        self._closed = True
        self._notify()
        while self._entries or self._tasks:
            for entry in list(self._entries.values()):
                if entry.model is not None:
                    self._unload(entry, "stop")
            await asyncio.wait(self._tasks)
        self._threads.shutdown()


def _wake(waiter: asyncio.Future[bool], in_time: bool) -> None:
    if not waiter.done():
        waiter.set_result(in_time)
