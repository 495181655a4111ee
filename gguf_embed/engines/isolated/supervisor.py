"""Keeps one engine's process running: starts it, notices how it has ended, and starts it again after a while."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any

from gguf_embed.config import ModelConfig
from gguf_embed.engines.base import LoadSpec
from gguf_embed.engines.isolated import frames
from gguf_embed.engines.isolated.backoff import next_delay_s
from gguf_embed.engines.isolated.loading import Listener, load
from gguf_embed.engines.isolated.messages import Loaded, LoadJob, MakePlan, Plan
from gguf_embed.engines.isolated.process import REAPED_S, EngineProcess, Lane
from gguf_embed.errors import ConfigError, EmbedError, EngineFailure, Unavailable, WayOut
from gguf_embed.types import EngineProcessState

logger = logging.getLogger("gguf_embed.isolated")

CLOSE_S = 5.0
"""How long a process may take to end by itself."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How long the process may say nothing. Ten times and more what is usual: exceeding them ends it."""

    stage_s: float = 120.0
    stage_bytes_per_s: float = 5_000_000.0  # a stage of loading may also take as long as reading the file at this speed
    call_s: float = 60.0  # a batch, in addition to what its tokens take
    call_slowness: float = 20.0  # times what was measured at warm-up
    text_s: float = 4.0  # tokenizing, which the server gives up after 5 s and 50 µs per character
    text_s_per_character: float = 4e-5
    image_s: float = 600.0

    def stage(self, size_bytes: int) -> float:
        return self.stage_s + size_bytes / self.stage_bytes_per_s

    def batch(self, n_tokens: int, tokens_per_s: float) -> float:
        """`tokens_per_s`: of one worker."""
        return self.call_s + self.call_slowness * n_tokens / max(1.0, tokens_per_s)

    def text(self, n_characters: int) -> float:
        return self.text_s + self.text_s_per_character * n_characters


LIMITS = Limits()


class Supervisor:
    """Owns the processes of one engine, one after another. A thread starts them all, and lives as long as they do."""

    def __init__(self, spec: LoadSpec, on_restart: Callable[[], None], limits: Limits | None = None) -> None:
        config = replace(spec.config, isolate=False)
        level = logging.getLogger("gguf_embed").getEffectiveLevel()
        self._job = LoadJob(spec.header.path, config, spec.output, spec.cache_dir, log_level=level)
        self._spec = spec
        self._name = spec.header.path.name
        self._on_restart = on_restart
        self.limits = limits or LIMITS
        self.stage_s = self.limits.stage(spec.header.size_bytes)
        self._file = _state(self._job)
        self._process: EngineProcess | None = None  # None: none is ready
        self._latest: EngineProcess | None = None  # may still be loading
        self._closing = threading.Event()
        self._started: Future[Loaded] = Future()
        self._first: Loaded | None = None
        self._load_lane: Lane | None = None
        self._n_restarts = 0
        self._last_end = ""
        self._expected_s = 0.0  # when it should run again, on the monotonic clock
        self._load_s = 1.0
        self._thread = threading.Thread(target=self._run, name="engine-supervisor", daemon=True)

    def start(self) -> Loaded:
        """Start and load. Raises what the driver in the process raises, and `ModelFileError` if it ends the process."""
        self._thread.start()
        return self._started.result()

    def make_plan(self, max_input_tokens: int) -> Plan:
        lane = self._load_lane
        assert lane is not None
        plan: Plan = self.call(lane, MakePlan(max_input_tokens), self.stage_s, "measuring it")
        config = _in_float32(self._job.config) if plan.plan.bf16_failed else self._job.config
        self._job = replace(self._job, planner=plan.planner, config=config)
        lane.close()
        return plan

    def open_lane(self, n_bytes: int = 0) -> Lane:
        """A lane to the process that runs now. Raises `Unavailable`."""
        process = self._process
        if process is None:
            raise self._unavailable()
        try:
            return process.open_lane(n_bytes)
        except frames.Closed:
            raise self._lost(process) from None

    def is_current(self, lane: Lane) -> bool:
        return lane.process is self._process

    def call(self, lane: Lane, request: object, limit_s: float, what: str) -> Any:
        """The answer. Raises the engine's error, or `Unavailable` if the process ends or must be ended before it.

        `what` continues "it took over 60 s for": the limit is on the process, which is ended.
        """
        try:
            return lane.call(request, limit_s)
        except TimeoutError:
            lane.process.stop(f"took over {limit_s:.0f} s for {what}")
        except frames.Closed:
            pass
        lane.close()
        raise self._lost(lane.process)

    def state(self) -> EngineProcessState:
        process = self._process
        if process is None:
            return EngineProcessState("restarting", 0, self._n_restarts, self._last_end)
        return EngineProcessState("running", process.pid, self._n_restarts, self._last_end)

    def close(self) -> None:
        """End the process. Blocks until it has ended. Safe to call twice."""
        self._closing.set()
        process = self._latest
        if process is not None:
            process.close(CLOSE_S)
        if self._thread.ident is not None:
            self._thread.join()

    def _lost(self, process: EngineProcess) -> Unavailable:
        """The error for a request whose process has ended, or has broken off its answer, which ends it."""
        if not process.has_ended(REAPED_S):
            process.stop("broke off an answer")
        return self._unavailable(process.how_it_ended())

    def _unavailable(self, how: str = "") -> Unavailable:
        if self._closing.is_set():
            return Unavailable("the model is being unloaded", [WayOut.RETRY])
        wait_s = max(0.0, self._expected_s - time.monotonic()) or self._load_s
        message = f"the engine of {self._name} was {how or self._last_end} and is being restarted"
        return Unavailable(message, [WayOut.RETRY], math.ceil(wait_s))

    def _run(self) -> None:
        """On the thread: one process after another."""
        delay_s: float | None = None
        process = self._start_first()
        while process is not None:
            process.wait()
            self._process = None
            if self._closing.is_set():
                return
            ran_s = time.monotonic() - process.started_s
            delay_s = next_delay_s(delay_s, ran_s)
            self._note_end(process, ran_s, delay_s)
            process = self._start_again(delay_s)

    def _start_first(self) -> EngineProcess | None:
        try:
            process = self._latest = EngineProcess()
        except OSError as error:
            self._started.set_exception(ConfigError(f"the engine's process cannot be started: {error}"))
            return None
        try:
            loaded = self._load(process, Listener(self._spec.report, self._spec.on_stage))
        except BaseException as error:
            process.stop("could not load the model")
            process.wait()
            self._started.set_exception(error)
            return None
        self._first = loaded
        self._job = replace(self._job, config=_with_engine(self._job.config, loaded.engine))
        self._process = process
        self._started.set_result(loaded)
        return process

    def _load(self, process: EngineProcess, listener: Listener) -> Loaded:
        begun_s = time.monotonic()
        loaded, self._load_lane = load(process, self._job, self.stage_s, listener)
        self._load_s = time.monotonic() - begun_s
        return loaded

    def _note_end(self, process: EngineProcess, ran_s: float, delay_s: float) -> None:
        self._last_end = process.how_it_ended()
        self._expected_s = time.monotonic() + delay_s + self._load_s
        last = process.last_words()
        logger.error(
            "the engine of %s (process %d) was %s after %.1f s%s: it is restarted in %.1f s",
            self._name,
            process.pid,
            self._last_end,
            ran_s,
            f", its last line {last!r}" if last else "",
            delay_s,
        )

    def _start_again(self, delay_s: float) -> EngineProcess | None:
        """The next process after `delay_s`, or the one after it if this fails, and so on. None if this is closed."""
        while not self._closing.wait(delay_s):
            self._n_restarts += 1
            self._on_restart()
            begun_s = time.monotonic()
            process: EngineProcess | None = None
            try:
                process = self._latest = EngineProcess()
                self._check(self._load(process, Listener(logger.info, logger.debug)))
            except (OSError, EmbedError) as error:
                if process is not None:
                    process.stop("could not load the model")
                    process.wait()
                delay_s = next_delay_s(delay_s, 0.0)
                self._expected_s = time.monotonic() + delay_s + self._load_s
                logger.error("the engine of %s does not start (%s): next try in %.1f s", self._name, error, delay_s)
                continue
            self._process = process
            seconds = time.monotonic() - begun_s
            logger.warning(
                "the engine of %s runs again (process %d), started in %.1f s", self._name, process.pid, seconds
            )
            if self._closing.is_set():
                process.close(CLOSE_S)
            return process
        return None

    def _check(self, loaded: Loaded) -> None:
        """Raises `EngineFailure` if the vectors would be others than before."""
        first = self._first
        assert first is not None
        assert self._load_lane is not None
        self._load_lane.close()
        if _state(self._job) != self._file:
            raise EngineFailure("its file has changed since it was loaded")
        if (loaded.engine, loaded.info, loaded.weights_type) != (first.engine, first.info, first.weights_type):
            raise EngineFailure("it would not run as before")


def _with_engine(config: ModelConfig, engine: str) -> ModelConfig:
    """The same for the next process: the engine is not chosen again, because another one gives other vectors."""
    return replace(config, compute=replace(config.compute, engine=engine))


def _in_float32(config: ModelConfig) -> ModelConfig:
    """The same for the next process: BF16, which may not fail there, gives other vectors."""
    return replace(config, compute=replace(config.compute, precision="f32"))


def _state(job: LoadJob) -> tuple[int, int] | None:
    """What changes when someone writes into the file; None: it is gone."""
    try:
        state = job.path.stat()
    except OSError:
        return None
    return state.st_size, state.st_mtime_ns
