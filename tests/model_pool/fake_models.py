"""Models on the fake engine, and a loader that counts, waits and fails as a test wants."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from gguf_embed.config import ModelConfig, QueueConfig
from gguf_embed.engines.base import BatchLimits, LoadedEngine
from gguf_embed.engines.fake import FakeContexts, FakeEngine, FakeScript, fake_plan
from gguf_embed.errors import ModelFileError
from gguf_embed.metrics import Metrics
from gguf_embed.model_pool.eviction import with_options
from gguf_embed.model_pool.loading import LoadedModel
from gguf_embed.model_pool.served_models import ModelSpec
from gguf_embed.preprocessing.tokenizers import LlamaTokenizer
from gguf_embed.preprocessing.tokens import TokenLimits, closing_ids
from gguf_embed.scheduler.scheduler import Scheduler
from gguf_embed.types import LoadOptions, Pooling
from tests.server.fake_service import MODEL

LIMIT = 16
MODEL_MEMORY_BYTES = 96 * 2**20  # besides its file


def make_spec(
    name: str = "a", size_bytes: int = 1000, version: int = 0, config: ModelConfig | None = None
) -> ModelSpec:
    """A model without a file."""
    path = Path(f"/models/{name}.gguf")
    info = replace(MODEL, name=name, aliases=(), path=path, size_bytes=size_bytes, max_input_tokens=LIMIT)
    identity = (str(path), size_bytes, version)
    return ModelSpec(
        name, path, identity, config or ModelConfig(), info, "d" * 64, 0.0, "named", size_bytes + MODEL_MEMORY_BYTES
    )


@dataclass
class FakeLoader:
    """Implements `ModelLoader`. `gates[name]` holds a load up until it is set; names in `failing` fail."""

    script: FakeScript = field(default_factory=FakeScript)
    metrics: Metrics = field(default_factory=Metrics)
    gates: dict[str, threading.Event] = field(default_factory=dict)
    failing: set[str] = field(default_factory=set)
    loads: list[str] = field(default_factory=list)  # names in the order in which loading began
    engines: list[FakeEngine] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)  # guards `loads` and `closed`
    pooling: Pooling = Pooling.MEAN

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Block until the loads and closes so far make `condition` true."""
        with self.changed:
            assert self.changed.wait_for(condition, 10), f"loaded {self.loads}, closed {self.closed}"

    def record(self, names: list[str], name: str) -> None:
        with self.changed:
            names.append(name)
            self.changed.notify_all()

    def load(self, spec: ModelSpec, options: LoadOptions) -> LoadedModel:
        name = spec.info.name
        self.record(self.loads, name)
        if name in self.gates:
            assert self.gates[name].wait(10), f"nobody opened the gate of {name}"
        if name in self.failing:
            raise ModelFileError(f"{spec.path}: is broken")
        engine = FakeEngine(self.script)
        self.engines.append(engine)
        config = with_options(spec.config, options, has_gpu=True)
        plan = fake_plan(BatchLimits(32, 8), contexts=FakeContexts(long_tokens=64))
        scheduler = Scheduler(engine, plan, QueueConfig(10_000), self.metrics)
        scheduler.start()
        info = replace(spec.info, pooling=self.pooling, n_embd=8, max_input_tokens=LIMIT, n_ctx_train=512, n_vocab=258)
        limits = TokenLimits(258, LIMIT, closing_ids(engine.codec.vocabulary()))
        loaded = LoadedEngine(engine, engine.codec, "F16")
        on_close = partial(self.record, self.closed, name)
        return _Recorded(
            config, info, loaded, LlamaTokenizer(engine.codec), limits, scheduler, cache_key=name, on_close=on_close
        )

    def has_gpu(self) -> bool:
        return True

    def held_bytes(self) -> int:
        return 0


@dataclass(frozen=True, slots=True)
class _Recorded(LoadedModel):
    """Tells when it is closed."""

    on_close: Callable[[], None] = lambda: None

    def close(self) -> None:
        LoadedModel.close(self)
        self.on_close()
