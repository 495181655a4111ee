"""Paths as clients join them: answered where only one route can be meant."""

from __future__ import annotations

import asyncio

import pytest

from gguf_embed.server.http.path import likely_paths
from tests.server.fake_service import serving


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("//api/embed", "/api/embed"),
        ("/v1/embeddings/", "/v1/embeddings"),
        ("/v1/v1/embeddings", "/v1/embeddings"),
        ("/v1/v1/v1/embeddings", "/v1/embeddings"),
        ("/v1//v1/embeddings//", "/v1/embeddings"),
        ("/api/v1/embeddings", "/v1/embeddings"),
        ("/openai/v1/embeddings", "/v1/embeddings"),
        ("/v1/api/embed", "/api/embed"),
        ("/api/api/tags", "/api/tags"),
        ("/v1/v2/rerank", "/v2/rerank"),
        ("/v2/v2/embed", "/v2/embed"),
        ("/v1/embeddings/embeddings", "/v1/embeddings"),
        ("/v1/embeddings/v1/embeddings", "/v1/embeddings"),
        ("/api/embed/api/embed", "/api/embed"),
        ("/rerank/rerank", "/rerank"),
        ("/embed/embed", "/embed"),
    ],
)
def test_what_a_path_may_mean(path, meant):
    assert meant in list(likely_paths(path))


POSTED = {
    "/v1/v1/embeddings": {"input": "a"},
    "/v1/embeddings/": {"input": "a"},
    "/api/v1/embeddings": {"input": "a"},
    "/openai/v1/embeddings": {"input": "a"},
    "/v1/embeddings/embeddings": {"input": "a"},
    "/v1/v1/embeddings/?x=1": {"input": "a"},
    "/embeddings/": {"content": "a"},
    "/v1/api/embed": {"model": "tiny", "input": "a"},
    "/api/embed/": {"model": "tiny", "input": "a"},
    "/embed/": {"inputs": "a"},
    "/v2/embed/": {"texts": ["a"]},
    "/v1/v1/rerank": {"query": "a", "documents": ["b"]},
    "/v2/v2/rerank/": {"query": "a", "documents": ["b"]},
    "/tokenize/": {"content": "a"},
    "/openai/deployments/tiny/embeddings/": {"input": "a"},
}
GOT = ("/health/", "/v1/models/", "/v1/v1/models", "/api/v1/models", "/v1/v1/models/tiny", "/v1/api/tags", "/props/")
NOTHING = (
    "/v3/embeddings",
    "/v1/similarity",
    "/v1",
    "/api",
    "/v1/v1",
    "/x/v1/embeddings",
    "/v1/embeddings/x",
    "/v1" * 99,
)


def test_they_are_answered_and_counted_as_the_route_that_is_meant():
    async def scenario():
        async with serving() as running:
            for path, body in POSTED.items():
                reply = await running.post(path, body)
                assert reply.status == 200, (path, reply)
            for path in GOT:
                assert (await running.request("GET", path)).status == 200, path
                assert (await running.request("HEAD", path)).status == 200, path
            for path in NOTHING:
                assert (await running.request("GET", path)).status == 404, path
            text = (await running.request("GET", "/metrics")).raw.decode()
            assert 'route="/v1/embeddings",status="200"} 6.0' in text

    asyncio.run(scenario())


def test_a_corrected_path_keeps_keys_dialects_and_methods():
    async def scenario():
        async with serving(api_keys=("one",)) as running:
            assert (await running.post("/v1/v1/embeddings", {"input": "a"})).status == 401
            assert (await running.request("GET", "/health/")).status == 200
            key = {"Api-Key": "one"}
            reply = await running.post("/v1/v1/embeddings/", {"input": []}, headers=key)
            assert (reply.status, reply.json["error"]["param"]) == (400, "input")
            reply = await running.request("GET", "/v1/v1/embeddings", headers=key)
            assert (reply.status, reply.headers["Allow"]) == (405, "POST")
            assert reply.json["error"]["code"] == "method_not_supported"
            reply = await running.request("OPTIONS", "/v1/v1/embeddings", headers={"Origin": "http://page"})
            assert reply.status == 200

    asyncio.run(scenario())
