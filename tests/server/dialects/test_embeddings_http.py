"""The embedding and token routes over a real connection."""

from __future__ import annotations

import asyncio
import gzip

import pytest

from gguf_embed.errors import EngineFailure, NotSupported, Overloaded, Unavailable
from gguf_embed.types import Pooling
from tests.server.fake_service import FakeService, failing, serving, vector_of, with_pooling


def test_v1_embeddings_answers_in_order_with_usage_and_the_real_model():
    async def scenario():
        async with serving() as running:
            reply = await running.post("/v1/embeddings", {"input": ["ab", [101, 6, 102]], "model": "whatever"})
            assert reply.status == 200
            assert reply.json["model"] == "tiny"
            assert reply.json["usage"] == {"prompt_tokens": 7, "total_tokens": 7}
            for index, prompt in enumerate(["ab", (101, 6, 102)]):
                assert reply.json["data"][index]["embedding"] == pytest.approx(vector_of(prompt), abs=1e-7)

    asyncio.run(scenario())


def test_v1_embeddings_with_content_answers_in_the_native_shape():
    async def scenario():
        async with serving() as running:
            reply = await running.post("/v1/embeddings", {"content": "ab"})
            assert [list(item) for item in reply.json] == [["index", "embedding"]]

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("service", "body"),
    [(with_pooling, {"input": "a"}), (lambda _: FakeService(), {"input": "a", "pooling": "none"})],
)
def test_v1_embeddings_refuses_token_rows_and_names_the_way_out(service, body):
    async def scenario():
        async with serving(service(Pooling.NONE)) as running:
            reply = await running.post("/v1/embeddings", body)
            assert reply.status == 400
            assert "POST /embedding" in reply.json["error"]["message"]
            assert running.service.requests == []

    asyncio.run(scenario())


def test_v1_embeddings_takes_another_pooling_where_the_server_has_none():
    async def scenario():
        async with serving(with_pooling(Pooling.NONE)) as running:
            assert (await running.post("/v1/embeddings", {"input": "a", "pooling": "mean"})).status == 200

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("body", "is_openais"),
    [
        ({"model": "m", "input": "a"}, True),
        ({"model": "m", "input": ["a", "b"], "encoding_format": "base64"}, True),
        ({"model": "m", "input": "a", "content": None}, True),
        ({"input": "a"}, False),
        ({"content": "a"}, False),
        ({"model": "m", "content": "a"}, False),
        ({"model": "m", "input": "a", "content": "a"}, False),
        ({"model": None, "input": "a"}, False),
    ],
)
def test_without_v1_a_body_with_a_model_and_an_input_is_openais(body, is_openais):
    async def scenario():
        async with serving() as running:
            reply = await running.post("/embeddings", body)
            expected = await running.post("/v1/embeddings" if is_openais else "/embedding", body)
            assert (reply.status, reply.json) == (200, expected.json)
            wrong = await running.post("/embeddings", body | {"dimensions": 99})
            assert wrong.status == 400
            assert ("param" in wrong.json["error"]) is is_openais

    asyncio.run(scenario())


@pytest.mark.parametrize("path", ["/openai/deployments/tiny/embeddings", "/openai/deployments/hf.co/a/tiny/embeddings"])
def test_azures_path_names_the_model(path):
    async def scenario():
        async with serving() as running:
            query = "?api-version=2024-02-01"
            reply = await running.post(path + query, {"input": ["a", "b"], "model": "another"})
            assert (reply.status, len(reply.json["data"])) == (200, 2)
            assert running.service.requests[0].model == path.split("/", 3)[3].removesuffix("/embeddings")
            reply = await running.post(path + query, {"input": []})
            assert (reply.status, reply.json["error"]["param"]) == (400, "input")

    asyncio.run(scenario())


@pytest.mark.parametrize("path", ["/embedding", "/embeddings"])
def test_llama_cpps_route_returns_token_vectors_if_requested(path):
    async def scenario():
        async with serving() as running:
            reply = await running.post(path, {"content": ["ab", "c"], "pooling": "none"})
            assert [len(item["embedding"]) for item in reply.json] == [4, 3]

    asyncio.run(scenario())


def test_truncation_shows_in_body_header_and_metric():
    async def scenario():
        async with serving() as running:
            body = {"input": ["a" * 20, "b", "c" * 15], "truncate": True}
            reply = await running.post("/v1/embeddings", body)
            assert reply.headers["X-Gguf-Embed-Truncated"] == "0,2"
            assert [cut["n_dropped"] for cut in reply.json["truncated"]] == [6, 1]
            metrics = (await running.request("GET", "/metrics")).raw.decode()
            assert "gguf_embed_truncated_texts_total 2.0" in metrics
            assert "gguf_embed_dropped_tokens_total 7.0" in metrics

    asyncio.run(scenario())


def test_a_reply_without_truncation_does_not_mention_it():
    async def scenario():
        async with serving() as running:
            reply = await running.post("/v1/embeddings", {"input": "a", "truncate": True})
            assert "truncated" not in reply.json
            assert "X-Gguf-Embed-Truncated" not in reply.headers

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("error", "status", "header"),
    [
        (Overloaded("the queue is full", 7), 429, ("Retry-After", "7")),
        (Unavailable("loading"), 503, None),
        (NotSupported("no rank head"), 501, ("x-should-retry", "false")),
        (EngineFailure("text 3 failed twice"), 500, ("x-should-retry", "false")),
    ],
)
@pytest.mark.parametrize("path", ["/v1/embeddings", "/embedding"])
def test_service_errors_become_their_status(path, error, status, header):
    async def scenario():
        async with serving(failing(error)) as running:
            reply = await running.post(path, {"input": "a"})
            assert reply.status == status
            assert reply.json["error"]["message"].startswith(error.message)
            assert reply.json["error"].get("code") == (status if path == "/embedding" else reply.json["error"]["code"])
            if header:
                assert reply.headers.get(header[0]) == header[1]
            metrics = (await running.request("GET", "/metrics")).raw.decode()
            assert f'gguf_embed_errors_total{{kind="{error.kind}"}} 1.0' in metrics

    asyncio.run(scenario())


def test_a_bug_is_logged_and_answered_without_its_internals(caplog):
    async def scenario():
        async with serving(failing(ZeroDivisionError("secret"))) as running:
            reply = await running.post("/v1/embeddings", {"input": "a"})
            assert reply.status == 500
            assert b"secret" not in reply.raw

    asyncio.run(scenario())
    assert "ZeroDivisionError: secret" in caplog.text


def test_strict_names_make_an_unknown_model_a_404():
    async def scenario():
        async with serving(FakeService(strict_model=True)) as running:
            reply = await running.post("/v1/embeddings", {"input": "a", "model": "other"})
            assert (reply.status, reply.json["error"]["code"]) == (404, "model_not_found")
            assert (await running.post("/v1/embeddings", {"input": "a", "model": "tiny-alias"})).status == 200

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("body", "tokens"),
    [
        ({"content": "ab"}, [97, 98]),
        ({"content": "ab", "add_special": True}, [101, 97, 98, 102]),
        ({"content": ["a", 300, "b"]}, [97, 300, 98]),
        ({"content": ["a", "b"]}, [97, 98]),
        ({"content": ""}, []),
        ({"content": []}, []),
        ({"content": "aé", "with_pieces": True}, [("a", 97), ([195], 195), ([169], 169)]),
    ],
)
def test_tokenize_has_llama_servers_shape(body, tokens):
    if body.get("with_pieces"):
        tokens = [{"id": token, "piece": piece} for piece, token in tokens]

    async def scenario():
        async with serving() as running:
            assert (await running.post("/tokenize", body)).json == {"tokens": tokens}

    asyncio.run(scenario())


def test_detokenize_joins_tokens():
    async def scenario():
        async with serving() as running:
            assert (await running.post("/detokenize", {"tokens": [97, 98]})).json == {"content": "ab"}
            assert (await running.post("/detokenize", {"tokens": [999]})).status == 400

    asyncio.run(scenario())


def test_the_content_type_does_not_matter_and_gzip_is_read():
    async def scenario():
        async with serving() as running:
            form = {"Content-Type": "application/x-www-form-urlencoded"}
            assert (await running.post("/v1/embeddings", b'{"input":"a"}', headers=form)).status == 200
            packed = {"Content-Encoding": "gzip"}
            body = gzip.compress(b'{"input":"a"}')
            assert (await running.post("/v1/embeddings", body, headers=packed)).status == 200
            assert (await running.post("/v1/embeddings", b"not gzip", headers=packed)).status == 400

    asyncio.run(scenario())


@pytest.mark.parametrize("path", ["/v1/embeddings", "/embedding"])
@pytest.mark.parametrize("declared", [True, False])
def test_a_large_body_is_a_413_that_names_limit_and_flag(path, declared):
    async def chunks():
        for _ in range(20):
            yield b" " * 100

    async def scenario():
        async with serving(max_body_bytes=1000) as running:
            reply = await running.request("POST", path, data=b" " * 2000 if declared else chunks())
            assert reply.status == 413
            assert "1,000 bytes" in reply.json["error"]["message"]
            assert "--max-body-size" in reply.json["error"]["message"]

    asyncio.run(scenario())


def test_a_decompression_bomb_stops_at_the_limit():
    async def scenario():
        async with serving(max_body_bytes=10_000) as running:
            bomb = gzip.compress(b" " * 5_000_000)
            reply = await running.post("/v1/embeddings", bomb, headers={"Content-Encoding": "gzip"})
            assert reply.status == 413

    asyncio.run(scenario())


@pytest.mark.parametrize("path", ["/v1/embeddings", "/embedding"])
def test_an_entry_of_the_wrong_type_is_named_by_its_index(path):
    async def scenario():
        async with serving() as running:
            return await running.post(path, {"input": ["a", None]})

    error = asyncio.run(scenario()).json["error"]
    assert (error["index"], error.get("param", "input")) == (1, "input")
