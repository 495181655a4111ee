"""Named models in memory: loaded once when first asked for, unloaded when idle, never while a request uses them."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Callable, Collection, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from gguf_embed.config import RegistryConfig
from gguf_embed.errors import EmbedError, ModelLoadFailed, Unavailable
from gguf_embed.model_pool.entry import NO_WISH, Lease, RegistryObserver, Resident, Wish
from gguf_embed.model_pool.eviction import needs_reload, plan_room, seconds_left
from gguf_embed.model_pool.loader import ModelLoader
from gguf_embed.model_pool.loading import LoadedModel
from gguf_embed.model_pool.registry import Identity, ModelSpec
from gguf_embed.types import NO_LOAD_OPTIONS, LoadOptions, ModelInfo, ModelStatus

logger = logging.getLogger(__name__)

CONTEXT_BYTES = 96 * 2**20
"""Reckoned for a model's contexts and buffers until it is loaded: what all-MiniLM-L6-v2 takes on two workers."""

ROOM_TIMEOUT_S = 60.0
"""How long a request waits for busy models to make room for its own."""


class Registry:
    """Owns all loaded models. Every method belongs to one event loop; loading and freeing happen on threads."""

    def __init__(
        self,
        loader: ModelLoader,
        config: RegistryConfig,
        observer: RegistryObserver,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._loader = loader
        self._config = config
        self._observer = observer
        self._clock = clock
        self._residents: dict[str, Resident] = {}
        self._infos: dict[str, tuple[Identity, ModelInfo]] = {}  # of models that were loaded once
        self._waiting: list[asyncio.Future[None]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._threads = ThreadPoolExecutor(max_workers=64, thread_name_prefix="load")  # started as they are needed
        self._closed = False

    @asynccontextmanager
    async def lease(self, spec: ModelSpec, wish: Wish = NO_WISH) -> AsyncIterator[Lease]:
        """Use a model; it is loaded first where it is not, and stays at least until the block ends.

        Raises `ModelLoadFailed` to everyone who waits for a load that fails; the next request tries again.
        Raises `Unavailable` where it would not fit, or busy models left no room in time.
        """
        started_s = self._clock()
        resident, waited = await self._acquire(spec, wish)
        try:
            model = resident.model
            if model is None:
                waited = True
                model = await asyncio.shield(resident.ready)
            yield Lease(model, resident.spec, self._clock() - started_s if waited else 0.0)
        finally:
            self._give_back(resident)

    async def _acquire(self, spec: ModelSpec, wish: Wish) -> tuple[Resident, bool]:
        """A resident with one more lease, and whether that needed waiting."""
        deadline_s: float | None = None
        while True:
            resident = self._residents.get(spec.key)
            if resident is not None and self._suits(resident, spec, wish.options):
                break
            if resident is None and (resident := self._begin_if_there_is_room(spec, wish)) is not None:
                break
            deadline_s = deadline_s or self._clock() + ROOM_TIMEOUT_S
            await self._next_change(deadline_s)
        resident.n_leases += 1
        if wish.keep_alive_s is not None:
            resident.keep_alive_s = wish.keep_alive_s
        return resident, deadline_s is not None

    def _suits(self, resident: Resident, spec: ModelSpec, options: LoadOptions) -> bool:
        """Whether it can be used as it is. If not, it leaves as soon as it is idle, and nobody new gets it."""
        if resident.leaving or resident.leave_when_idle:
            return False
        if resident.spec.identity == spec.identity:
            if options in (NO_LOAD_OPTIONS, resident.options):
                return True
            model = resident.model
            if model is None:
                return False  # what it will be is seen when it is loaded
            if not needs_reload(model.config, model.info, options, self._loader.has_gpu()):
                return True
        self._dismiss(resident)
        return False

    def _begin_if_there_is_room(self, spec: ModelSpec, wish: Wish) -> Resident | None:
        """A resident that is loading, or None after starting what makes room for it."""
        if self._closed:
            raise Unavailable("the server is shutting down")
        need = spec.info.size_bytes + CONTEXT_BYTES
        limits = self._config.limits
        plan = plan_room([resident.occupant() for resident in self._residents.values()], need, limits)
        if plan.impossible:
            raise Unavailable(
                f"model {spec.info.name!r} takes about {need / 2**20:,.0f} MiB, --max-memory allows "
                f"{(limits.max_bytes or 0) / 2**20:,.0f}: allow more, or use a smaller quantisation"
            )
        if plan.wait:
            return None
        for key in plan.evict:
            self._unload(self._residents[key], "room")
        return None if plan.evict else self._begin(spec, wish, need)

    def _begin(self, spec: ModelSpec, wish: Wish, memory_bytes: int) -> Resident:
        ready: asyncio.Future[LoadedModel] = asyncio.get_running_loop().create_future()
        resident = Resident(spec, ready, memory_bytes, self._config.keep_alive_s, self._clock(), options=wish.options)
        self._residents[spec.key] = resident
        self._run(self._load(resident))
        return resident

    async def _load(self, resident: Resident) -> None:
        loop, spec = asyncio.get_running_loop(), resident.spec
        started_s = self._clock()
        is_alone = len(self._residents) == 1
        try:
            before = self._loader.held_bytes()
            model = await loop.run_in_executor(self._threads, self._loader.load, spec, resident.options)
        except BaseException as error:
            if not isinstance(error, EmbedError):
                logger.exception("loading %s failed", spec.info.name)
            self._observer.observe_load("failed", self._clock() - started_s)
            del self._residents[spec.key]
            resident.ready.set_exception(_load_failure(spec, error))
            resident.ready.exception()  # seen: nobody may be waiting for it
            if not isinstance(error, Exception):
                raise
        else:
            if is_alone:
                resident.memory_bytes = max(resident.memory_bytes, self._loader.held_bytes() - before)
            self._observer.observe_load("ok", self._clock() - started_s)
            self._infos[spec.key] = spec.identity, _under_its_names(model.info, spec.info)
            resident.ready.set_result(model)
            logger.info("loaded %s in %.1f s", spec.info.name, self._clock() - started_s)
            if resident.n_leases == 0:
                self._rest(resident)
        self._notify()

    def _give_back(self, resident: Resident) -> None:
        resident.n_leases -= 1
        if resident.n_leases == 0 and resident.model is not None:
            self._rest(resident)

    def _rest(self, resident: Resident) -> None:
        """It is idle from now on: unload it, or look again when its time may be up."""
        resident.last_used_s = self._clock()
        if resident.leave_when_idle:
            self._unload(resident, "replaced")
        elif resident.keep_alive_s <= 0:
            self._unload(resident, "keep_alive")
        else:
            self._arm(resident)
        if self._waiting:
            self._notify()

    def _arm(self, resident: Resident) -> None:
        """One timer at a time: when it fires early, because the model was used since, it is set anew."""
        left_s = seconds_left(resident.last_used_s, resident.keep_alive_s, self._clock())
        if resident.timer is not None:
            if left_s is not None and resident.timer.when() <= asyncio.get_running_loop().time() + left_s:
                return
            resident.timer.cancel()
            resident.timer = None
        if left_s is not None:
            resident.timer = asyncio.get_running_loop().call_later(left_s, self._look_at, resident)

    def _look_at(self, resident: Resident) -> None:
        resident.timer = None
        if resident.n_leases or resident.leaving or resident.model is None:
            return
        if seconds_left(resident.last_used_s, resident.keep_alive_s, self._clock()) == 0:
            self._unload(resident, "keep_alive")
        else:
            self._arm(resident)

    def _dismiss(self, resident: Resident) -> None:
        """Let it go as soon as no request uses it."""
        resident.leave_when_idle = True
        if resident.n_leases == 0 and resident.model is not None:
            self._unload(resident, "replaced")

    def _unload(self, resident: Resident, reason: str) -> None:
        if resident.leaving:
            return
        resident.leaving = True
        if resident.timer is not None:
            resident.timer.cancel()
            resident.timer = None
        self._observer.observe_unload(reason)
        self._run(self._free(resident))

    async def _free(self, resident: Resident) -> None:
        model = resident.model
        if model is not None:
            await asyncio.get_running_loop().run_in_executor(self._threads, model.close)
            logger.info("unloaded %s", resident.spec.info.name)
        del self._residents[resident.spec.key]
        self._notify()

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _next_change(self, deadline_s: float) -> None:
        """Sleep until a model went idle, was loaded or is gone."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            async with asyncio.timeout(max(0.0, deadline_s - self._clock())):
                await waiter
        except TimeoutError as exc:
            raise Unavailable(
                f"the loaded models were busy for {ROOM_TIMEOUT_S:g} s, so this one found no room: "
                "try again, or allow more with --models-max and --max-memory"
            ) from exc
        finally:
            self._waiting.remove(waiter)

    def _notify(self) -> None:
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)

    def unload(self, key: str, keep_alive_s: float = 0.0) -> None:
        """Let a model go as soon as no request uses it; nothing happens where it is not loaded."""
        resident = self._residents.get(key)
        if resident is None or resident.leaving:
            return
        resident.keep_alive_s = keep_alive_s
        if resident.n_leases == 0 and resident.model is not None:
            self._unload(resident, "asked")

    def retain(self, keys: Collection[str]) -> None:
        """Let every model go whose key is not among these: its file is not there any more."""
        for resident in list(self._residents.values()):
            if resident.spec.key not in keys:
                self._dismiss(resident)

    def status(self, spec: ModelSpec) -> ModelStatus:
        """How a model is now. Wakes nothing."""
        resident = self._residents.get(spec.key)
        info = self.info(spec)
        if resident is None or resident.leaving:
            return ModelStatus(info, spec.digest, spec.modified_unix_s, "unloaded")
        model = resident.model
        left_s = seconds_left(resident.last_used_s, resident.keep_alive_s, self._clock())
        if left_s is not None and resident.n_leases:
            left_s = resident.keep_alive_s
        return ModelStatus(
            info,
            spec.digest,
            spec.modified_unix_s,
            "loading" if model is None else "loaded",
            memory_bytes=resident.memory_bytes,
            gpu_bytes=resident.memory_bytes if model is not None and model.config.compute.offload.n_gpu_layers else 0,
            expires_unix_s=None if left_s is None or math.isinf(left_s) else time.time() + left_s,
        )

    def info(self, spec: ModelSpec) -> ModelInfo:
        """What is known of a model: more once it was loaded."""
        found = self._infos.get(spec.key)
        return found[1] if found is not None and found[0] == spec.identity else spec.info

    def loaded(self) -> list[LoadedModel]:
        """All models that answer now."""
        return [model for resident in self._residents.values() if (model := resident.model) is not None]

    async def close(self) -> None:
        """Load nothing more, and free everything once accepted work is done."""
        self._closed = True
        self._notify()
        while self._residents or self._tasks:
            for resident in list(self._residents.values()):
                if resident.model is not None:
                    self._unload(resident, "stop")
            await asyncio.wait(self._tasks)
        self._threads.shutdown()


def _under_its_names(loaded: ModelInfo, served: ModelInfo) -> ModelInfo:
    """What loading showed, with the names and prompts that the shelf gives it."""
    return replace(
        loaded,
        name=served.name,
        aliases=served.aliases,
        prompts=served.prompts,
        matryoshka=served.matryoshka,
        license=served.license,
    )


def _load_failure(spec: ModelSpec, error: BaseException) -> EmbedError:
    """The same answer for everyone who waited. Folders are nobody's business."""
    reason = error.message if isinstance(error, EmbedError) else f"{type(error).__name__}: see the server's log"
    return ModelLoadFailed(
        f"model {spec.info.name!r} cannot be loaded: {reason.replace(str(spec.path), spec.path.name)}"
    )
