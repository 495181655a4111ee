"""Loads a model's file with a request's options. The pool calls it on its threads."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from gguf_embed.config import ModelConfig
from gguf_embed.engines.memory import child_pids, resident_bytes
from gguf_embed.engines.records import machine_key
from gguf_embed.engines.select import supports_gpu
from gguf_embed.errors import ModelFileError, WayOut
from gguf_embed.gguf_file.digest import content_digest
from gguf_embed.model_pool.computed_by import ComputedBy, note_load
from gguf_embed.model_pool.eviction import with_options
from gguf_embed.model_pool.file_problems import report_problems
from gguf_embed.model_pool.loading import LoadedModel, LoadObserver, load_model
from gguf_embed.model_pool.served_models import ModelSpec
from gguf_embed.model_pool.trial import FileTrials, TookTooMuchMemory
from gguf_embed.model_pool.trial_child import TrialJob
from gguf_embed.model_store.locate import LocatedModel
from gguf_embed.model_store.names import split_parts
from gguf_embed.types import LoadOptions


class ModelLoader(Protocol):
    """Loads models. Methods may be called from any thread."""

    def load(self, spec: ModelSpec, options: LoadOptions) -> LoadedModel:
        """May block for seconds. Raises `EmbedError`, and then leaves nothing open."""
        ...

    def has_gpu(self) -> bool: ...

    def held_bytes(self) -> int:
        """Resident memory of this process and its engines' processes; 0 if the system does not report it."""
        ...


class FileLoader:
    """Implements `ModelLoader` for GGUF files."""

    def __init__(
        self,
        cache_dir: Path,
        observer: LoadObserver,
        report: Callable[[str], None],
        trials: FileTrials | None = None,
        *,
        has_cache: bool = False,
    ) -> None:
        """`trials` try files in a child process first; None: every file is loaded here at once.

        `has_cache`: outputs are kept, so each model gets a key.
        """
        self._cache_dir = cache_dir
        self._has_cache = has_cache
        self._trials = trials
        self._observer = observer
        self._report = report

    def load(self, spec: ModelSpec, options: LoadOptions) -> LoadedModel:
        config = with_options(spec.config, options, self.has_gpu())
        located = LocatedModel(spec.path, spec.info.name)
        report = self._report
        report_problems(spec.info, config.strict_file, report)
        if self._trials is not None:
            job = TrialJob(spec.path, spec.info.name, replace(config, isolate=False), self._cache_dir)
            engine, said = self._checked(self._trials, job, spec.memory_bytes)
            config = _with_engine(config, engine)
            report = _without(report, said)
        before = _state(spec)
        model = load_model(located, config, self._cache_dir, self._observer, report)
        if self._has_cache and model.scheduler.plan.is_worth_caching:
            model = replace(model, cache_key=_cache_key(spec, model))
        if _state(spec) != before:
            model.close()
            raise ModelFileError(f"{spec.path} was changed while it was read", [WayOut.RETRY])
        note_load(spec.path, self._cache_dir, ComputedBy.of(model.info, model.scheduler.plan))
        return model

    def _checked(self, trials: FileTrials, job: TrialJob, memory_bytes: int) -> tuple[str, Collection[str]]:
        """The engine to load it in, and what was said: llama.cpp if choosing one took too much memory, and it runs."""
        engine = job.config.compute.engine
        try:
            return engine, trials.check(job, memory_bytes)
        except TookTooMuchMemory as error:
            if engine != "auto":
                raise
            try:
                said = trials.check(replace(job, config=_with_engine(job.config, "llama")), memory_bytes)
            except ModelFileError:
                raise error from None
            why = error.message.removeprefix(f"{job.path}: ")
            self._report(f"{job.path.name} runs in the engine llama, because with others {why}")
            return "llama", said

    def has_gpu(self) -> bool:
        return supports_gpu()

    def held_bytes(self) -> int:
        return sum(map(resident_bytes, (os.getpid(), *child_pids())))


def _with_engine(config: ModelConfig, engine: str) -> ModelConfig:
    return replace(config, compute=replace(config.compute, engine=engine))


def _parts(spec: ModelSpec) -> list[Path]:
    parts = (spec.path.with_name(name) for name in split_parts(spec.path.name))
    return [part for part in parts if part.exists()]


def _state(spec: ModelSpec) -> list[tuple[int, int]]:
    """What changes when someone writes into a part of the model."""
    return [(state.st_size, state.st_mtime_ns) for state in (part.stat() for part in _parts(spec))]


def _cache_key(spec: ModelSpec, model: LoadedModel) -> str:
    """Stands for the content of the file, and for everything that decides how a token sequence is computed."""
    info = model.info
    computed = (info.engine, info.kernels, info.weights_type, model.config.compute)
    return machine_key(content_digest(_parts(spec) or [spec.path]), computed)


def _without(report: Callable[[str], None], said: Collection[str]) -> Callable[[str], None]:
    """`report`, but nothing that was said before."""
    return lambda line: None if line in said else report(line)
