"""Actors for tests: of a fixed precision, so that rows can be compared; some die, some are slow enough to be killed."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

from gguf_embed.embedder.embedder import Embedder
from gguf_embed.ingest.pool.base import Embedded
from gguf_embed.ingest.pool.ray_actors import ActorConfig, EmbedActor, RayPool, Refusal


class F32Actor(EmbedActor):
    @staticmethod
    def open_model(config: ActorConfig) -> Embedder:
        return Embedder(config.model, threads=config.n_threads, precision="f32")


class SlowActor(F32Actor):
    def embed(self, texts: Sequence[str]) -> Embedded | Refusal:
        time.sleep(0.1)
        return super().embed(texts)


class PoisonedActor(F32Actor):
    """Its process ends when it sees certain texts, as a fault in a native library would end it."""

    def embed(self, texts: Sequence[str]) -> Embedded | Refusal:
        if any("poison" in text for text in texts):
            os._exit(1)
        return super().embed(texts)


class F32Pool(RayPool):
    actor_class = F32Actor


class SlowPool(RayPool):
    actor_class = SlowActor
    batch_texts = 8


class PoisonedPool(RayPool):
    actor_class = PoisonedActor
    batch_texts = 8
