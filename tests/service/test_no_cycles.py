"""An error from a model's thread leaves no reference cycle, which would keep a request's texts until a collection."""

from __future__ import annotations

import asyncio
import weakref

import pytest

from gguf_embed.config import ModelConfig
from gguf_embed.errors import EmbedError, EngineFailure
from gguf_embed.model_pool.model_threads import ModelThreads, Patience
from gguf_embed.types import EmbedRequest, Input
from tests.garbage import garbage, without_collections
from tests.running import Running, running


class Text:
    """Something that can be watched."""


def fail_with(text: Text) -> None:
    raise EngineFailure(f"not with {type(text).__name__}")


@pytest.mark.parametrize("patience", [None, Patience(60.0, "tokenizing")])
def test_an_error_keeps_no_text(patience):
    async def ask(threads: ModelThreads) -> weakref.ref[Text]:
        text = Text()
        watched = weakref.ref(text)
        with pytest.raises(EngineFailure):
            await threads.run(lambda: fail_with(text), patience)
        return watched

    async def scenario() -> None:
        threads = ModelThreads("test", 1)
        watched = await ask(threads)
        threads.close()
        await asyncio.sleep(0)
        assert watched() is None

    with without_collections():
        asyncio.run(scenario())


def left_over_errors() -> list[str]:
    """Errors that only a collection would free."""
    return [repr(one) for one in garbage() if isinstance(one, EmbedError)]


async def is_refused(service: Running, inputs: tuple[Input, ...]) -> bool:
    """Inside of the loop, whose own runner keeps an error that reaches it."""
    try:
        await service.service.embed(EmbedRequest(inputs))
    except EmbedError:
        return True
    return False


@pytest.mark.parametrize(
    "inputs",
    [
        ("word " * 200,),
        ("word " * 20_000,),  # tokenized on a thread
        ("a" * 1_000_001,),
        ((1, 10**6),),
        ("fine", ()),
    ],
)
def test_a_refused_request_keeps_no_text(models, cache_dir, inputs):
    with running(models / "encoder.gguf", ModelConfig(), cache_dir) as service:
        service.embed("what is made at first use")
        with without_collections():
            assert service.run(is_refused(service, inputs))
            assert left_over_errors() == []


def test_a_file_that_cannot_be_loaded_keeps_no_text(models, cache_dir, tmp_path):
    path = tmp_path / "gone.gguf"
    path.write_bytes((models / "encoder.gguf").read_bytes())
    with without_collections(), running(path, ModelConfig(), cache_dir) as service:
        path.unlink()
        assert service.run(is_refused(service, ("a text",)))
        assert left_over_errors() == []
