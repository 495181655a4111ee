"""The driver that runs another engine in a supervised process: what ends or hangs it does not end the server."""

from __future__ import annotations

import sys
from dataclasses import replace

from gguf_embed.config import ModelConfig
from gguf_embed.engines.base import EngineDriver, ExecutionPlan, LoadedEngine, LoadSpec
from gguf_embed.engines.isolated.engine import IsolatedEngine, IsolatedImages
from gguf_embed.engines.isolated.supervisor import Supervisor
from gguf_embed.engines.select import has_other_engines, select_driver, supports_gpu
from gguf_embed.errors import ConfigError
from gguf_embed.gguf_file.header import GgufHeader

PROCESS_BYTES = 120 * 2**20
"""Estimate of what a process takes besides its model: Python, numpy, and the engine's library."""


class IsolatedDriver:
    """Implements `EngineDriver`, for one load. Its name is that of the engine in the process, once it is loaded."""

    def __init__(self) -> None:
        self.name = "isolated"

    def refusal(self, header: GgufHeader, config: ModelConfig) -> str | None:
        return _driver(header, config).refusal(header, config)

    def supports_gpu(self) -> bool:
        return supports_gpu()

    def memory_bytes(self, header: GgufHeader, config: ModelConfig) -> int:
        return _driver(header, config).memory_bytes(header, config) + PROCESS_BYTES

    def load(self, spec: LoadSpec) -> LoadedEngine:
        """Start a process, which chooses the engine and loads the weights."""
        if sys.platform == "win32":
            raise ConfigError("engines run in processes of their own on Linux and macOS only: omit --isolate")
        if has_other_engines():
            raise ConfigError("an engine that is registered in this process cannot run in another one: omit --isolate")
        supervisor = Supervisor(spec, spec.on_restart)
        loaded = supervisor.start()
        self.name = loaded.engine
        engine = IsolatedEngine(supervisor, loaded)
        return LoadedEngine(
            engine,
            engine.codec,
            loaded.weights_type,
            exact=engine.codec if loaded.is_exact else None,
            open_images=(lambda: IsolatedImages(supervisor)) if loaded.reads_images else None,
            process_state=supervisor.state,
            images_alone=loaded.images_alone,
        )

    def plan(self, loaded: LoadedEngine, spec: LoadSpec, max_input_tokens: int) -> ExecutionPlan:
        engine = loaded.engine
        assert isinstance(engine, IsolatedEngine)
        plan = engine.supervisor.make_plan(max_input_tokens).plan
        engine.tokens_per_s = plan.tokens_per_s / plan.n_workers
        return plan


def _driver(header: GgufHeader, config: ModelConfig) -> EngineDriver:
    return select_driver(header, replace(config, isolate=False))
