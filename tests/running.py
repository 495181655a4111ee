"""The service without HTTP, on an event loop of its own."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Coroutine, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from gguf_embed.config import ModelConfig, PoolConfig
from gguf_embed.metrics import Metrics
from gguf_embed.model_pool.loader import FileLoader
from gguf_embed.model_pool.pool import ModelPool
from gguf_embed.model_pool.registry import ModelRegistry, RegistryConfig
from gguf_embed.model_store.catalog import Catalog
from gguf_embed.model_store.locate import LocatedModel
from gguf_embed.model_store.store import ModelStore
from gguf_embed.service.service import EmbedService
from gguf_embed.types import EmbedRequest, EmbedResult, Input, OutputSpec, Pooling

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Running:
    """A service, and the one event loop that it lives on."""

    service: EmbedService
    runner: asyncio.Runner

    def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        return self.runner.run(work)

    def embed(self, *inputs: Input, pooling: Pooling | None = None, **fields: Any) -> EmbedResult:
        output = None if pooling is None else OutputSpec.of(pooling)
        return self.run(self.service.embed(EmbedRequest(inputs, output=output, **fields)))


@contextmanager
def running(path: Path, config: ModelConfig, cache_dir: Path, prompts: Mapping[str, str] = {}) -> Iterator[Running]:
    """One real model, loaded when it is first asked for."""
    metrics, library = Metrics(), ModelStore(cache_dir / "no-library")
    with asyncio.Runner() as runner:
        registry = ModelRegistry(
            RegistryConfig(((LocatedModel(path, path.stem), config),), config, prompts), library, Catalog(())
        )
        loader = FileLoader(cache_dir, metrics, lambda line: None)
        service = EmbedService(
            registry, ModelPool(loader, PoolConfig(keep_alive_s=math.inf), metrics), library, metrics
        )
        try:
            yield Running(service, runner)
        finally:
            runner.run(service.close())
