"""Health, models, props, metrics and the plain page."""

from __future__ import annotations

import asyncio
import json
import shlex
from dataclasses import replace

import pytest

from gguf_embed.server.admin.index import example
from gguf_embed.server.docs.openapi import shown_path
from gguf_embed.types import Pooling, ServiceState
from tests.server.fake_service import FakeService, serving, with_pooling
from tests.server.routes import ROUTES, with_model


def get(path, service=None, **options):
    """(status, JSON, headers, raw) of one GET."""

    async def scenario():
        async with serving(service, **options) as running:
            return await running.request("GET", path)

    return asyncio.run(scenario())


@pytest.mark.parametrize("path", ["/health", "/v1/health"])
def test_health_is_llama_servers(path):
    reply = get(path)
    assert (reply.status, reply.json) == (200, {"status": "ok"})


@pytest.mark.parametrize("path", ["/health", "/v1/health", "/ready"])
@pytest.mark.parametrize(
    ("state", "message"),
    [
        (ServiceState("loading"), "Loading model"),
        (ServiceState("failed", "worker 1 died: boom"), "worker 1 died: boom"),
        (ServiceState("draining"), "the service is draining"),
    ],
)
def test_health_is_503_whenever_requests_would_not_be_answered(path, state, message):
    service = FakeService()
    service.status = state
    reply = get(path, service)
    assert reply.status == 503
    assert reply.json == {"error": {"code": 503, "message": message, "type": "unavailable_error"}}


def test_ready_tells_the_load():
    service = FakeService()
    service.status = ServiceState("ok", queued_texts=3, queued_tokens=40, running_texts=2)
    assert get("/ready", service).json == {
        "status": "ready",
        "queued_texts": 3,
        "queued_tokens": 40,
        "running_texts": 2,
    }


@pytest.mark.parametrize("path", ["/v1/models", "/models"])
def test_models_has_llama_servers_keys_and_the_true_limit(path):
    reply = get(path).json
    assert reply["object"] == "list"
    (entry,) = reply["data"]
    assert (entry["id"], entry["aliases"], entry["object"]) == ("tiny", ["tiny-alias"], "model")
    assert isinstance(entry["created"], int)
    assert reply["models"][0]["capabilities"] == entry["capabilities"] == ["embedding"]
    assert entry["meta"] == {
        "vocab_type": 3,
        "n_vocab": 1000,
        "n_ctx": 64,
        "n_ctx_train": 16,
        "n_embd": 8,
        "n_params": 22_000_000,
        "size": 45_000_000,
        "ftype": "F16",
        "max_input_tokens": 16,
        "pooling": "mean",
        "normalized": True,
        "prompts": {},
        "tasks": [],
        "matryoshka": [],
        "n_scores": 0,
        "labels": [],
    }
    assert entry["status"] == {"value": "loaded"}


@pytest.mark.parametrize("pooling", [Pooling.NONE, Pooling.RANK])
def test_token_rows_and_scores_are_not_called_normalized(pooling):
    assert get("/models", with_pooling(pooling)).json["data"][0]["meta"]["normalized"] is False


def test_a_rank_head_is_a_capability():
    service = FakeService()
    service.info = replace(service.info, n_scores=2, labels=("no", "yes"))
    reply = get("/v1/models", service).json
    (entry,) = reply["data"]
    assert reply["models"][0]["capabilities"] == entry["capabilities"] == ["embedding", "rerank"]
    assert (entry["meta"]["n_scores"], entry["meta"]["labels"]) == (2, ["no", "yes"])


def test_heads_are_capabilities():
    service = FakeService()
    service.info = replace(service.info, head_outputs=("multivector", "sparse"))
    (entry,) = get("/v1/models", service).json["data"]
    assert entry["capabilities"] == ["embedding", "rerank", "multivector", "sparse"]


@pytest.mark.parametrize(("pooling", "path"), [
    (Pooling.MEAN, "/v1/embeddings"), (Pooling.NONE, "/embedding"), (Pooling.RANK, "/rerank"),
])  # fmt: skip
def test_the_example_is_one_that_the_model_answers(pooling, path):
    info = replace(FakeService().info, pooling=pooling)
    assert shlex.split(example("http://host", info))[3] == f"http://host{path}"
    line = shlex.split(example("http://host", info, named=True, headers=" -H 'Authorization: Bearer KEY'"))
    assert json.loads(line[-1])["model"] == "tiny"
    assert "Authorization: Bearer KEY" in line


def test_the_example_of_a_model_with_sparse_vectors_only_asks_for_them():
    info = replace(FakeService().info, pooling=Pooling.NONE, head_outputs=("sparse",))
    line = shlex.split(example("http://host", info))
    assert (line[3], json.loads(line[-1])) == ("http://host/embed_sparse", {"inputs": "hello"})


def test_one_model_is_found_by_a_name_with_slashes():
    service = FakeService()
    service.info = replace(service.info, name="org/repo:Q4_0")
    assert get("/v1/models/org/repo:Q4_0", service).json["id"] == "org/repo:Q4_0"


def test_an_unknown_model_is_a_404_where_names_are_strict():
    reply = get("/v1/models/other", FakeService(strict_model=True))
    assert (reply.status, reply.json["error"]["code"]) == (404, "model_not_found")


def test_props_tells_what_llama_server_hides_and_no_directories():
    reply = get("/props")
    expected = {
        "pooling": "mean",
        "n_embd": 8,
        "embd_normalize": 2,
        "max_input_tokens": 16,
        "n_ctx": 64,
        "weights": "BF16",
        "tokenizer": "exact",
        "model_path": "tiny.gguf",
        "model_ftype": "F16",
        "total_slots": 2,
        "build_info": "gguf-embed 1.2.3",
    }
    assert expected.items() <= reply.json.items()
    assert reply.json["default_generation_settings"]["n_ctx"] == 64
    assert b"secret" not in reply.raw


def test_version():
    assert get("/version").json == {"name": "gguf-embed", "version": "1.2.3"}


def test_the_page_names_the_model_and_every_route():
    reply = get("/")
    text = reply.raw.decode()
    assert reply.headers["Content-Type"].startswith("text/plain")
    assert "tiny (8 dimensions, pooling mean, at most 16 tokens per text, loaded)" in text
    table = [line for line in text.splitlines() if line.endswith(tuple(route.summary for route in ROUTES))]
    assert [line.split()[:2] for line in table] == [[route.method, shown_path(route)] for route in ROUTES]
    assert len({line.index(" /") for line in table}) == 1
    assert "curl -w '\\n' http://127.0.0.1:" in text


def test_metrics_are_prometheus_text_with_the_load():
    service = FakeService()
    service.status = ServiceState("ok", queued_texts=3, queued_tokens=40, running_texts=2)
    reply = get("/metrics", service)
    assert reply.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert int(reply.headers["Process-Start-Time-Unix"]) > 0
    text = reply.raw.decode()
    for line in ("gguf_embed_queued_texts 3.0", "gguf_embed_queued_tokens 40.0", "gguf_embed_running_texts 2.0"):
        assert line in text


def test_metrics_can_be_switched_off():
    reply = get("/metrics", metrics_enabled=False)
    assert (reply.status, reply.json["error"]["type"]) == (501, "not_supported_error")


@pytest.mark.parametrize("path", ["/health", "/", "/v1/models", "/props"])
def test_head_answers_without_a_body(path):
    async def scenario():
        async with serving() as running:
            reply = await running.request("HEAD", path)
            assert (reply.status, reply.raw) == (200, b"")

    asyncio.run(scenario())


def test_asking_about_the_server_embeds_nothing():
    async def scenario():
        async with serving() as running:
            for route in ROUTES:
                if route.method == "GET":
                    await running.request("GET", with_model(route.path))
            assert running.service.requests == []

    asyncio.run(scenario())
