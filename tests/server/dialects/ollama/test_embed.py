"""Ollama's embedding endpoints over a real connection."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import numpy as np
import pytest

from gguf_embed.errors import ModelLoadFailed, NotSupported, Overloaded, Unavailable
from gguf_embed.server.fields import aliases
from gguf_embed.types import LoadOptions, Pooling
from tests.server.fake_service import MODEL, FakeService, failing, holding, serving, vector_of, with_pooling
from tests.server.routes import ROUTES, with_model

OTHER = replace(MODEL, name="other", aliases=(), architecture="nomic-bert")


def post(path, body, service=None, **options):
    """The reply to one POST."""

    async def scenario():
        async with serving(service, **options) as running:
            return await running.post(path, body)

    return asyncio.run(scenario())


def test_vectors_come_with_durations_in_nanoseconds_and_tokens():
    reply = post("/api/embed", {"model": "TINY:latest", "input": ["ab", "c"]})
    assert reply.status == 200
    assert reply.headers["Content-Type"] == "application/json"
    assert list(reply.json) == ["model", "embeddings", "total_duration", "load_duration", "prompt_eval_count"]
    assert reply.json["model"] == "TINY:latest"
    assert np.allclose(reply.json["embeddings"], [vector_of("ab"), vector_of("c")], atol=1e-7)
    assert reply.json["load_duration"] == 4_000_000
    assert isinstance(reply.json["total_duration"], int)
    assert reply.json["total_duration"] > 0
    assert reply.json["prompt_eval_count"] == 7


def test_the_service_gets_a_request_with_ollamas_defaults():
    service = FakeService()
    body = {"model": "tiny", "input": "ab", "keep_alive": "1m", "options": {"num_thread": 2, "temperature": 0}}
    post("/api/embed", body, service)
    (request,) = service.requests
    assert (request.embd_normalize, request.truncate, request.strict_name) == (2, True, True)
    assert (request.keep_alive_s, request.load) == (60.0, LoadOptions(n_threads=2))


@pytest.mark.parametrize(("asked", "n_dims"), [(4, 4), (8, 8), (9, 8), (4096, 8), (0, 8), (-1, 8)])
def test_dimensions_beyond_the_models_are_ignored(asked, n_dims):
    reply = post("/api/embed", {"model": "tiny", "input": "ab", "dimensions": asked})
    assert [len(row) for row in reply.json["embeddings"]] == [n_dims]


@pytest.mark.parametrize("body", [{}, {"input": ""}, {"input": []}, {"input": None, "keep_alive": -1}])
def test_an_empty_input_loads_the_model(body):
    service = FakeService(others=(OTHER,))
    reply = post("/api/embed", {"model": "other", "options": {"num_ctx": 8}, **body}, service)
    assert reply.json == {"model": "other", "embeddings": []}
    keep_alive_s = float("inf") if "keep_alive" in body else None
    assert service.loads == [("other", keep_alive_s, LoadOptions(n_ctx=8))]
    assert service.resolve("other").state == "loaded"
    assert service.requests == []


@pytest.mark.parametrize("path", ["/api/embed", "/api/embeddings"])
@pytest.mark.parametrize("keep_alive", [0, "0", "0s"])
def test_an_empty_input_and_no_time_unloads_it(path, keep_alive):
    service = FakeService()
    reply = post(path, {"model": "tiny", "keep_alive": keep_alive}, service)
    assert reply.status == 200
    assert service.resolve("tiny").state == "unloaded"
    assert service.loads == []


def test_a_text_and_no_time_is_embedded_and_then_unloaded_by_the_service():
    service = FakeService()
    assert post("/api/embed", {"model": "tiny", "input": "a", "keep_alive": 0}, service).status == 200
    assert service.requests[0].keep_alive_s == 0.0


@pytest.mark.parametrize(("path", "field"), [("/api/embed", "input"), ("/api/embeddings", "prompt")])
def test_truncation_is_the_default_and_is_reported(path, field):
    reply = post(path, {"model": "tiny", field: "a" * 30})
    assert reply.status == 200
    assert reply.headers["X-Gguf-Embed-Truncated"] == "0"
    assert reply.json["truncated"] == [{"index": 0, "n_tokens": 32, "n_kept": 16, "n_dropped": 16}]


@pytest.mark.parametrize(("path", "field"), [("/api/embed", "input"), ("/api/embeddings", "prompt")])
def test_without_truncation_a_long_text_is_refused_in_ollamas_words(path, field):
    reply = post(path, {"model": "tiny", field: "a" * 30, "truncate": False})
    assert reply.status == 400
    assert reply.json["error"].startswith(
        "the input length exceeds the context length: input 0 is too large (32 tokens"
    )


def test_a_reply_has_no_truncation_if_nothing_was_cut():
    reply = post("/api/embed", {"model": "tiny", "input": "a"})
    assert "truncated" not in reply.json
    assert "X-Gguf-Embed-Truncated" not in reply.headers


def test_the_older_route_returns_one_vector_with_all_digits():
    reply = post("/api/embeddings", {"model": "tiny", "prompt": "ab"})
    assert list(reply.json) == ["embedding"]
    assert reply.json["embedding"] == vector_of("ab").astype(np.float64).tolist()


@pytest.mark.parametrize("body", [{}, {"prompt": ""}, {"input": ""}, {"input": []}])
def test_the_older_endpoint_loads_without_a_prompt(body):
    service = FakeService()
    assert post("/api/embeddings", {"model": "tiny", **body}, service).json == {"embedding": []}
    assert service.loads == [("tiny", None, LoadOptions())]


@pytest.mark.parametrize(("model", "normalize"), [("tiny", 2), ("other", -1)])
def test_the_older_endpoint_leaves_some_models_raw(model, normalize):
    service = FakeService(others=(OTHER,))
    post("/api/embeddings", {"model": model, "prompt": "a"}, service)
    assert service.requests[0].embd_normalize == normalize


def test_the_reply_has_the_applied_prompt():
    service = FakeService(replace(MODEL, prompts={"query": "query: "}))
    reply = post("/api/embed", {"model": "tiny", "input": "a", "input_type": "query"}, service)
    assert reply.json["prompt"] == {"name": "query", "text": "query: "}


@pytest.mark.parametrize("path", ["/api/embed", "//api/embed", "//api//embed", "/api///embed"])
def test_ollama_toolkits_request_gets_the_field_it_reads(path):
    service = FakeService()
    reply = post(path, {"model": "tiny", "prompt": "ab", "num_ctx": 8, "temperature": 0.7}, service)
    assert reply.json["embedding"] == reply.json["embeddings"][0]
    assert reply.json["embedding"] == pytest.approx(vector_of("ab"), abs=1e-7)
    assert service.requests[0].load == LoadOptions(n_ctx=8)


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("/api/embed", {"input": "a"}, 'model "nothing" not found, try pulling it first'),
        ("/api/embed", {"input": ""}, 'model "nothing" not found, try pulling it first'),
        ("/api/embeddings", {"prompt": "a"}, 'model "nothing" not found, try pulling it first'),
        ("/api/show", {}, "model 'nothing' not found"),
    ],
)
def test_an_unknown_model_is_never_another_one(path, body, message, strict):
    reply = post(path, {"model": "nothing", **body}, FakeService(strict_model=strict))
    assert (reply.status, reply.json) == (404, {"error": message})


def test_a_long_unknown_name_is_shortened_in_the_error():
    reply = post("/api/embed", {"model": "n" * 10_000, "input": "a"})
    assert reply.status == 404
    assert len(reply.raw) < 400


@pytest.mark.parametrize("path", ["/api/embed", "/api/embeddings"])
def test_token_vectors_are_refused_on_this_route(path):
    reply = post(path, {"model": "tiny", "input": "a", "prompt": "a"}, with_pooling(Pooling.NONE))
    assert reply.status == 400
    assert "pooling none" in reply.json["error"]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (Overloaded("full", 7), 503),
        (Unavailable("no workers"), 503),
        (NotSupported("a reranker"), 501),
        (ModelLoadFailed("broken file"), 500),
        (ZeroDivisionError(), 500),
    ],
)
def test_failures_keep_the_shape(error, status):
    reply = post("/api/embed", {"model": "tiny", "input": "a"}, failing(error))
    assert reply.status == status
    assert list(reply.json) == ["error"]
    assert isinstance(reply.json["error"], str)
    assert reply.headers.get("Retry-After") == ("7" if isinstance(error, Overloaded) else None)


def test_a_client_that_leaves_cancels_its_work():
    async def scenario():
        service = holding()
        async with serving(service) as running:
            request = asyncio.create_task(running.post("//api/embed", {"model": "tiny", "input": "a"}))
            await service.entered.wait()
            request.cancel()
            await service.cancelled.wait()

    asyncio.run(scenario())


def test_keys_are_asked_for_in_ollamas_shape():
    reply = post("/api/embed", {"model": "tiny", "input": "a"}, api_keys=("one",))
    assert reply.status == 401
    assert reply.json["error"].startswith("Invalid API Key")


@pytest.mark.parametrize("path", ["/api/generate", "/api/chat", "/api/create", "/api/push", "/api/blobs/sha256:ab"])
def test_routes_that_generate_text_are_not_supported(path):
    reply = post(path, {"model": "tiny", "prompt": "a"})
    assert reply.status == 501
    assert reply.json["error"].startswith(f"{path} is not supported")
    assert "/api/embed" in reply.json["error"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/api/embed", 405),
        ("GET", "//api/embed", 405),
        ("POST", "/api/delete", 405),
        ("DELETE", "/api/tags", 405),
        ("GET", "/api/nothing", 404),
        ("GET", "//api/nothing", 404),
        ("POST", "/api/", 404),
    ],
)
def test_wrong_methods_and_paths_are_answered_in_ollamas_shape(method, path, status):
    async def scenario():
        async with serving() as running:
            reply = await running.request(method, path)
            assert (reply.status, list(reply.json)) == (status, ["error"])
            assert isinstance(reply.json["error"], str)

    asyncio.run(scenario())


def test_double_slashes_reach_every_route_and_keep_the_query():
    async def scenario():
        async with serving() as running:
            assert (await running.post("//v1/embeddings", {"input": "a"})).status == 200
            assert (await running.request("GET", "//v1//models/tiny?a=//b")).json["id"] == "tiny"
            assert (await running.request("GET", "//health?x=1")).status == 200
            assert (await running.request("HEAD", "//api/version")).status == 200
            wrong = await running.post("//v1/embeddings", {"input": 5})
            assert (wrong.status, wrong.json["error"]["param"]) == (400, "input")
            text = (await running.request("GET", "/metrics")).raw.decode()
            assert 'requests_total{route="/v1/embeddings",status="200"} 1.0' in text

    asyncio.run(scenario())


def test_double_slashes_need_the_key_too():
    async def scenario():
        async with serving(api_keys=("one",)) as running:
            for route in ROUTES:
                reply = await running.request(route.method, "/" + with_model(route.path))
                assert (reply.status == 401) == route.auth_required, route

    asyncio.run(scenario())


@pytest.mark.parametrize("path", ["/api/embed", "/api/embeddings"])
@pytest.mark.parametrize("name", aliases.TEXTS_ELSEWHERE)
def test_a_text_in_a_field_of_another_route_is_not_taken_for_none(path, name):
    reply = post(path, {"model": "tiny", name: "a text"})
    assert reply.status == 400
    assert f'"{name}" is not a field of this route: send the text as "input"' in reply.json["error"]
    assert post(path, {"model": "tiny", "input": "a", name: "a text"}).status == 200
