"""An error from a model's thread leaves no reference cycle, which would keep a request's texts until a collection."""

from __future__ import annotations

import asyncio
import gc
import weakref

import pytest

from gguf_embed.errors import EngineFailure
from gguf_embed.service.leased_threads import ModelThreads, Patience


class Text:
    """Something that can be watched."""


def fail_with(text: Text) -> None:
    raise EngineFailure(f"not with {type(text).__name__}")


@pytest.mark.parametrize("patience", [None, Patience(60.0, "tokenizing", lambda: None)])
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

    gc.disable()
    try:
        asyncio.run(scenario())
    finally:
        gc.enable()
