"""Long requests wait for the threads that tokenize: shorter ones do not, and none waits without end."""

from __future__ import annotations

import asyncio
import threading

import pytest

from gguf_embed.config import ComputeConfig, ModelConfig, QueueConfig
from gguf_embed.errors import Overloaded
from gguf_embed.service import pipeline
from gguf_embed.service.pipeline import INLINE_CHARACTERS
from gguf_embed.types import EmbedRequest, Pooling
from tests.gguf_models import write_tiny_encoder
from tests.running import running


def test_a_long_request_that_gets_no_thread_is_refused_like_one_without_room_in_the_queue(tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline, "MIN_WAIT_S", 0.0)
    compute = ComputeConfig(n_threads=1, engine="llama")
    config = ModelConfig(
        pooling=Pooling.MEAN, warmup=False, truncate=True, compute=compute, queue=QueueConfig(max_wait_s=0.1)
    )
    long = "hello " * (INLINE_CHARACTERS // 5)
    begun, may_end = threading.Semaphore(0), threading.Event()
    with running(write_tiny_encoder(tmp_path / "m.gguf"), config, tmp_path) as opened:
        service = opened.service
        opened.embed("hello")
        model = service.loaded()[0]

        def hold() -> None:
            begun.release()
            assert may_end.wait(20)

        async def scenario() -> None:
            held = [asyncio.create_task(model.threads.long.run(hold)) for _ in range(2)]
            for _ in held:
                await asyncio.to_thread(begun.acquire)
            waiting = asyncio.create_task(service.embed(EmbedRequest((long,))))
            await asyncio.sleep(0)
            assert service.state().queues[0].n_tokenizing == 1
            await service.embed(EmbedRequest(("a short one",)))
            with pytest.raises(Overloaded, match="threads that tokenize were busy"):
                await waiting
            may_end.set()
            await asyncio.gather(*held)
            await service.embed(EmbedRequest((long,)))

        opened.run(scenario())
