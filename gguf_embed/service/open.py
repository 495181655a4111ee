"""Opens the service: finds the named models, and puts registry, pool and store together. Loads no model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gguf_embed.config import CacheConfig, ModelConfig, PoolConfig
from gguf_embed.errors import ConfigError
from gguf_embed.metrics import Metrics
from gguf_embed.model_pool.loader import FileLoader
from gguf_embed.model_pool.pool import ModelPool
from gguf_embed.model_pool.registry import ModelRegistry, RegistryConfig
from gguf_embed.model_pool.trial import FileTrials
from gguf_embed.model_store.catalog import load_catalog
from gguf_embed.model_store.download import Hub
from gguf_embed.model_store.locate import LocatedModel, ModelSource, locate_model
from gguf_embed.model_store.names import model_key
from gguf_embed.model_store.store import ModelStore
from gguf_embed.output_cache.cache import OutputCache
from gguf_embed.output_cache.disk import DiskRows
from gguf_embed.service.service import EmbedService

NamedModel = tuple[LocatedModel, ModelConfig]

PATIENCE_S = 0.03
"""How long the event loop waits for a look at the folder of models, which usually takes a millisecond."""

STARTUP_S = 10.0
"""How long the start waits for it. A folder of 50,000 files takes longer; its models are listed when they are known."""


@dataclass(frozen=True, slots=True)
class ServiceOptions:
    """Which models are served, and how."""

    cache_dir: Path  # for converted models
    models: Sequence[tuple[ModelSource, ModelConfig]]  # those named
    base: ModelConfig  # for pulled models and files in `models_dir`
    pool: PoolConfig
    prompts: Mapping[str, str] = field(default_factory=dict)
    models_dir: Path | None = None
    pulled: bool = False  # whether pulled models are served on every route
    is_alone: bool = True  # whether the model answers to any name if one is named
    strict_names: bool = False
    offline: bool = False
    check_files: bool = True  # in a child process, before a file runs here for the first time
    check_vocabularies: bool = False  # of the named files, for what the doctor finds serious
    cache: CacheConfig = field(default_factory=CacheConfig)  # of outputs


def open_service(options: ServiceOptions, metrics: Metrics, report: Callable[[str], None]) -> EmbedService:
    """Locate, download or convert the named models, and build the service for all models. May block for minutes.

    Raises `ModelFileError`, `ConfigError` or `NotSupported`, and then leaves nothing open.
    """
    cache = options.cache_dir
    named = distinct([(locate_model(source, cache, report), config) for source, config in options.models])
    store = ModelStore(cache, options.models_dir, Hub(offline=options.offline))
    config = RegistryConfig(
        named,
        options.base,
        options.prompts,
        options.strict_names,
        options.check_vocabularies,
        options.pulled,
        cache,
        options.is_alone and len(named) == 1,
    )
    registry = ModelRegistry(config, store, load_catalog(), PATIENCE_S)
    registry.settle(STARTUP_S)
    trials = FileTrials(cache, report) if options.check_files else None
    outputs = _open_cache(options.cache, cache, metrics)
    loader = FileLoader(cache, metrics, report, trials, has_cache=outputs is not None)
    return EmbedService(registry, ModelPool(loader, options.pool, metrics), store, metrics, outputs, report)


def distinct(named: Sequence[NamedModel]) -> tuple[NamedModel, ...]:
    """The models that were named, each once. Raises `ConfigError` if two different ones have the same name."""
    found: dict[str, NamedModel] = {}
    for located, config in named:
        name = config.aliases[0] if config.aliases else located.name
        first = found.setdefault(model_key(name), (located, config))[0]
        if first.path.resolve() != located.path.resolve():
            raise ConfigError(
                f"two models are called {name!r} ({first.path} and {located.path}): give one of them another name with "
                "-m NAME=FILE"
            )
    return tuple(found.values())


def _open_cache(config: CacheConfig, folder: Path, metrics: Metrics) -> OutputCache | None:
    if not config.memory_bytes and not config.disk_bytes:
        return None
    return OutputCache(config.memory_bytes, metrics, DiskRows(folder, config.disk_bytes) if config.disk_bytes else None)
