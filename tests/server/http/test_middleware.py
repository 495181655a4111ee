"""Keys, request ids, CORS, unknown routes and metrics over a real connection."""

from __future__ import annotations

import asyncio
import logging

import pytest

from gguf_embed.errors import AuthenticationFailed, EngineFailure, InvalidRequest, NotSupported, Unavailable
from gguf_embed.server.http.auth import ApiKeys
from tests.server.fake_service import failing, holding, serving
from tests.server.routes import ROUTES, with_model


@pytest.mark.parametrize(
    ("authorization", "x_api_key", "number"),
    [
        ("Bearer one", None, 1),
        ("bearer two", None, 2),
        ("Bearer  two ", None, 2),
        (None, "one", 1),
        (None, "clé", 3),
        ("Bearer wrong", "two", 2),
        ("Basic b25l", "one", 1),
    ],
)
def test_any_known_key_is_accepted_from_either_header(authorization, x_api_key, number):
    assert ApiKeys(["one", "two", "clé"]).check(authorization, x_api_key).client == f"key {number}"


@pytest.mark.parametrize(
    ("authorization", "x_api_key"),
    [
        (None, None),
        ("", ""),
        ("Bearer", None),
        ("Bearer ", None),
        ("one", None),
        ("Basic one", None),
        ("Bearer One", None),
        ("Bearer one two", None),
        ("Bearer \udcff", None),
        (None, "on"),
    ],
)
def test_anything_else_is_refused(authorization, x_api_key):
    with pytest.raises(AuthenticationFailed):
        ApiKeys(["one", "two", ""]).check(authorization, x_api_key)


def path_of(route) -> str:
    return with_model(route.path)


def test_every_route_but_the_open_ones_needs_the_key():
    async def scenario():
        async with serving(api_keys=("one", "two")) as running:
            for route in ROUTES:
                reply = await running.request(route.method, path_of(route))
                assert (reply.status == 401) == route.auth_required, route
                if reply.status == 401:
                    assert "Invalid API Key" in reply.raw.decode()
                    assert reply.headers["WWW-Authenticate"] == "Bearer"
                reply = await running.request(route.method, path_of(route), headers={"X-Api-Key": "two"})
                assert reply.status != 401, route

    asyncio.run(scenario())


def test_the_open_routes_are_these():
    open_routes = {(route.method, route.path) for route in ROUTES if not route.auth_required}
    assert open_routes == {("GET", path) for path in ("/health", "/v1/health", "/ready", "/", "/docs", "/openapi.json")}


def test_an_unknown_path_does_not_show_itself_to_a_stranger():
    async def scenario():
        async with serving(api_keys=("one",)) as running:
            assert (await running.request("GET", "/nothing")).status == 401

    asyncio.run(scenario())


@pytest.mark.parametrize("key", ["K\u00fc".encode(), b"\xff\xfe"])
def test_a_key_outside_ascii_is_refused_not_a_crash(key):
    async def scenario():
        async with serving(api_keys=("one",)) as running:
            host, port = running.url.removeprefix("http://").split(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(
                b"GET /props HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nX-Api-Key: " + key + b"\r\n\r\n"
            )
            assert (await reader.readline()).startswith(b"HTTP/1.1 401")
            writer.close()
            await writer.wait_closed()

    asyncio.run(scenario())


@pytest.mark.parametrize(("asked", "echoed"), [("a.B-9_", True), ("x" * 128, True), ("x" * 129, False), ("a b", False)])
def test_a_valid_request_id_is_echoed_and_an_invalid_one_replaced(asked, echoed):
    async def scenario():
        async with serving() as running:
            reply = await running.request("GET", "/version", headers={"X-Request-Id": asked})
            assert (reply.headers["X-Request-Id"] == asked) == echoed
            assert reply.headers["X-Request-Id"]

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/health"), ("GET", "/nothing"), ("PUT", "/props"), ("POST", "/v1/embeddings")]
)
def test_every_reply_has_an_id_errors_included(method, path):
    async def scenario():
        async with serving() as running:
            assert len((await running.request(method, path)).headers["X-Request-Id"]) == 24

    asyncio.run(scenario())


@pytest.mark.parametrize("path", ["/v1/embeddings", "/embedding", "/nothing"])
def test_preflight_needs_no_key(path):
    async def scenario():
        async with serving(api_keys=("one",)) as running:
            reply = await running.request("OPTIONS", path, headers={"Origin": "http://page"})
            assert reply.status == 200
            assert reply.headers["Access-Control-Allow-Origin"] == "http://page"
            assert reply.headers["Access-Control-Allow-Credentials"] == "true"
            assert reply.headers["Access-Control-Allow-Methods"] == "GET, HEAD, POST, DELETE, OPTIONS"
            assert "Authorization" in reply.headers["Access-Control-Allow-Headers"]
            asked = {"Origin": "http://page", "Access-Control-Request-Headers": "authorization, x-stainless-os"}
            reply = await running.request("OPTIONS", path, headers=asked)
            assert reply.headers["Access-Control-Allow-Headers"] == "authorization, x-stainless-os"
            assert reply.headers["Vary"] == "Origin, Access-Control-Request-Headers"

    asyncio.run(scenario())


def test_cors_headers_come_with_an_origin_only():
    async def scenario():
        async with serving(allowed_origins=("http://page",)) as running:
            reply = await running.post("/v1/embeddings", {"input": "a"}, headers={"Origin": "http://page"})
            assert reply.headers["Access-Control-Allow-Origin"] == "http://page"
            reply = await running.post("/v1/embeddings", {"input": "a"})
            assert not any(name.startswith("Access-Control") for name in reply.headers)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("/nothing", ""),
        ("/v1/nothing", ""),
        ("/v1/embeddingss", "did you mean /v1/embeddings?"),
        ("/v1/embedding", "did you mean /v1/embeddings?"),
        ("/rerankk", "did you mean /rerank?"),
        ("/v1/completions", "does not generate"),
        ("/v1/chat/completions", "does not generate"),
        ("/v1/responses", "does not generate"),
        ("/" + "x" * 300, ""),
    ],
)
def test_an_unknown_path_is_a_404_that_names_it_and_suggests_another(path, hint):
    async def scenario():
        async with serving() as running:
            reply = await running.request("GET", path)
            error = reply.json["error"]
            assert (reply.status, error["type"], error["code"]) == (404, "not_found_error", 404)
            assert path[:100] in error["message"]
            assert path[:101] not in error["message"] or len(path) <= 100
            assert hint in error["message"]
            assert "GET /" in error["message"]
            assert ("did you mean" in error["message"]) is hint.startswith("did you mean")

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("method", "path", "allowed", "code"),
    [
        ("GET", "/embedding", "POST", 405),
        ("GET", "/v1/embeddings", "POST", "method_not_supported"),
        ("DELETE", "/props", "GET, HEAD", 405),
        ("POST", "/health", "GET, HEAD", 405),
    ],
)
def test_a_wrong_method_is_a_405_in_the_routes_dialect(method, path, allowed, code):
    async def scenario():
        async with serving() as running:
            reply = await running.request(method, path)
            assert (reply.status, reply.headers["Allow"]) == (405, allowed)
            assert reply.json["error"]["code"] == code

    asyncio.run(scenario())


def test_requests_are_counted_by_route_and_never_by_the_client_s_path():
    async def scenario():
        async with serving() as running:
            await running.post("/embedding", {"input": "a"})
            await running.post("/embedding", {})
            await running.request("GET", "/secret-path")
            await running.request("GET", "/v1/models/some-model")
            text = (await running.request("GET", "/metrics")).raw.decode()
            assert 'gguf_embed_requests_total{route="/embedding",status="200"} 1.0' in text
            assert 'gguf_embed_requests_total{route="/embedding",status="400"} 1.0' in text
            assert 'gguf_embed_requests_total{route="unknown",status="404"} 1.0' in text
            assert "secret-path" not in text
            assert "some-model" not in text

    asyncio.run(scenario())


def test_a_client_that_leaves_cancels_its_work():
    async def scenario():
        service = holding()
        async with serving(service) as running:
            request = asyncio.create_task(running.post("/v1/embeddings", {"input": "a"}))
            await service.entered.wait()
            request.cancel()
            await asyncio.wait([request])
            await service.cancelled.wait()
            service.gate.set()
            text = (await running.request("GET", "/metrics")).raw.decode()
            assert 'gguf_embed_requests_total{route="/v1/embeddings",status="499"} 1.0' in text

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("error", "logged"),
    [
        (NotSupported("no rank head"), "POST {} 501: no rank head"),
        (InvalidRequest("wrong"), "POST {} 400: wrong"),
        (Unavailable("a worker has failed"), "unavailable: a worker has failed, request mine-1"),
        (EngineFailure("llama.cpp failed"), "engine: llama.cpp failed, request mine-1"),
    ],
)
@pytest.mark.parametrize(("path", "field"), [("/v1/embeddings", "input"), ("/embed", "inputs")])
def test_errors_are_logged_with_their_reason_and_those_of_the_server_with_the_request_id(
    caplog, error, logged, path, field
):
    async def scenario():
        async with serving(failing(error)) as running:
            await running.post(path, {field: "a"}, headers={"X-Request-Id": "mine-1"})

    asyncio.run(scenario())
    lines = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert [line.replace(" 422", " 400").replace(" 424", " 501") for line in lines] == [logged.format(path)]


def test_a_made_request_id_is_the_same_in_log_and_reply(caplog):
    async def scenario():
        async with serving(failing(EngineFailure("llama.cpp failed"))) as running:
            reply = await running.post("/v1/embeddings", {"input": "a"})
            assert caplog.messages == [f"engine: llama.cpp failed, request {reply.headers['X-Request-Id']}"]

    asyncio.run(scenario())
