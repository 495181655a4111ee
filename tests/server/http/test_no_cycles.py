"""What a request held in memory goes when it has been answered, without waiting for the garbage collector."""

from __future__ import annotations

import asyncio
import gzip
import json
import types

import pytest

from gguf_embed.errors import EmbedError, InputTooLong, Overloaded
from tests.garbage import garbage, without_collections
from tests.server.fake_service import FakeService, failing, serving

LARGE = "word " * 100_000
TEXTS = ["a", "b"]


def left_over() -> list[str]:
    """What only a collection would free: errors, and frames of the package."""
    found = [one for one in garbage() if isinstance(one, (EmbedError, types.FrameType))]
    return [repr(one) for one in found if isinstance(one, EmbedError) or "gguf_embed" in one.f_code.co_filename]


@pytest.mark.parametrize(
    ("path", "body", "headers", "failure", "status"),
    [
        ("/v1/embeddings", {"input": LARGE}, {}, InputTooLong(0, 9, 8), 400),
        ("/v1/embeddings", {"input": LARGE}, {}, Overloaded("full"), 429),
        ("/v1/embeddings", {"input": LARGE}, {}, RuntimeError("broken"), 500),
        ("/v1/embeddings", {"input": [LARGE, None]}, {}, None, 400),
        ("/v1/embeddings", {"input": LARGE, "dimensions": "many"}, {}, None, 400),
        ("/v1/embeddings", b'{"input": "' + LARGE.encode(), {}, None, 400),
        ("/v1/embeddings", b'{"input": "a", oops}', {}, None, 400),
        ("/v1/embeddings", b"\xff\xfe\x00", {}, None, 400),
        ("/v1/embeddings", b"oops", {"Content-Encoding": "identity"}, None, 400),
        ("/v1/embeddings", b"oops", {"Content-Encoding": "br"}, None, 400),
        ("/v1/embeddings", b"oops", {"Content-Encoding": "gzip"}, None, 400),
        ("/v1/embeddings", gzip.compress(b'{"input": 1.5}'), {"Content-Encoding": "gzip"}, None, 400),
        ("/v1/embeddings", b'{"x": [' + b"[]," * 200_000 + b"1]}", {}, None, 413),
        ("/v1/rerank", {"query": LARGE, "documents": TEXTS}, {}, Overloaded("full"), 429),
        ("/v2/embed", {"texts": [LARGE, 7]}, {}, None, 400),
        ("/api/embed", {"model": "tiny", "input": [LARGE, 7]}, {}, None, 400),
        ("/embed", {"inputs": [LARGE, None]}, {}, None, 422),
        ("/tokenize", {"content": {"a": LARGE}}, {}, None, 400),
        ("/nowhere", {"input": LARGE}, {}, None, 404),
        ("/v1/embeddings", {"input": TEXTS}, {}, None, 200),
        ("/v1/embeddings", {"input": LARGE}, {}, None, 400),
    ],
)
def test_an_answer_keeps_nothing_in_a_reference_cycle(path, body, headers, failure, status):
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()

    async def scenario():
        service = FakeService() if failure is None else failing(failure)
        async with serving(service) as running:
            for _ in range(2):  # what is kept once only, such as a first import, does not count
                with without_collections():
                    async with running.http.post(running.url + path, data=raw, headers=headers) as reply:
                        assert reply.status == status, await reply.text()
                        await reply.read()
                    await asyncio.sleep(0.02)
                    kept = left_over()
            assert kept == []

    asyncio.run(scenario())
