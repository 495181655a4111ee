"""Actors for tests that die, or are slow enough to be killed."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

from gguf_embed.ingest.pool.base import Embedded
from gguf_embed.ingest.pool.ray_actors import EmbedActor, RayPool, Refusal


class SlowActor(EmbedActor):
    def embed(self, texts: Sequence[str]) -> Embedded | Refusal:
        time.sleep(0.1)
        return super().embed(texts)


class PoisonedActor(EmbedActor):
    """Its process ends when it sees certain texts, as a fault in a native library would end it."""

    def embed(self, texts: Sequence[str]) -> Embedded | Refusal:
        if any("poison" in text for text in texts):
            os._exit(1)
        return super().embed(texts)


class SlowPool(RayPool):
    actor_class = SlowActor
    batch_texts = 8


class PoisonedPool(RayPool):
    actor_class = PoisonedActor
    batch_texts = 8
