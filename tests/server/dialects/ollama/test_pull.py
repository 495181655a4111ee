"""Pull, copy and delete over a real connection."""

from __future__ import annotations

import asyncio
import json

import pytest

from gguf_embed.errors import InvalidRequest, ModelNotFound, PermissionDenied, PullFailed
from gguf_embed.server.context import SERVER_CONTEXT
from gguf_embed.server.http.errors import INTERNAL_MESSAGE
from gguf_embed.types import PullProgress
from tests.server.fake_service import FakeService, serving

STEPS = [
    PullProgress("pulling manifest"),
    PullProgress("pulling 797b70c4edf8", "sha256:797b70c4edf8", 100),
    PullProgress("pulling 797b70c4edf8", "sha256:797b70c4edf8", 100, 60),
    PullProgress("success"),
]
LINES = [
    {"status": "pulling manifest"},
    {"status": "pulling 797b70c4edf8", "digest": "sha256:797b70c4edf8", "total": 100},
    {"status": "pulling 797b70c4edf8", "digest": "sha256:797b70c4edf8", "total": 100, "completed": 60},
    {"status": "success"},
]


def pulling(*steps: PullProgress | BaseException) -> FakeService:
    """A service whose pulls go through these steps."""
    service = FakeService()
    service.pull_steps = list(steps)
    return service


def post(path, body, service=None, **kwargs):
    """The reply to one POST."""

    async def scenario():
        async with serving(service) as running:
            return await running.post(path, body, **kwargs)

    return asyncio.run(scenario())


@pytest.mark.parametrize(
    "body", [{"model": "new"}, {"name": "new"}, {"model": "new", "stream": True, "insecure": True}]
)
def test_a_pull_is_a_line_of_json_per_step(body):
    service = pulling(*STEPS)
    reply = post("/api/pull", body, service)
    assert reply.status == 200
    assert reply.headers["Content-Type"] == "application/x-ndjson"
    assert len(reply.headers["X-Request-Id"]) == 24
    assert reply.headers["Server"] == "gguf-embed"
    assert [json.loads(line) for line in reply.raw.splitlines()] == LINES
    assert service.pulls == ["new"]


def test_each_line_is_sent_when_it_happens():
    async def scenario():
        service = pulling(*STEPS)
        service.gate.clear()
        async with (
            serving(service) as running,
            running.http.post(running.url + "/api/pull", json={"model": "new"}) as reply,
        ):
            assert [json.loads(await reply.content.readline()) for _ in range(3)] == LINES[:3]
            assert (await running.request("GET", "/health")).status == 200
            service.gate.set()
            assert json.loads(await reply.content.readline()) == LINES[3]
            assert await reply.content.read() == b""

    asyncio.run(scenario())


def test_without_a_stream_the_reply_is_the_last_step_only():
    reply = post("/api/pull", {"model": "new", "stream": False}, pulling(*STEPS))
    assert (reply.status, reply.json) == (200, {"status": "success"})


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ModelNotFound("org/x is not on the hub; check the name"), 404),
        (PermissionDenied("org/x is gated"), 403),
        (PullFailed("the disk is full"), 500),
        (InvalidRequest("'../x' is not a model's name"), 400),
        (ZeroDivisionError(), 500),
    ],
)
def test_an_error_before_the_first_line_has_its_status(error, status, stream):
    reply = post("/api/pull", {"model": "org/x", "stream": stream}, pulling(error))
    assert reply.status == status
    assert reply.headers["Content-Type"] == "application/json"
    assert list(reply.json) == ["error"]


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (PullFailed("the disk is full"), "pull_failed", "the disk is full"),
        (ZeroDivisionError("secret"), "engine", INTERNAL_MESSAGE),
    ],
)
def test_a_later_error_is_the_last_line_and_is_counted(error, kind, message):
    async def scenario():
        async with serving(pulling(STEPS[0], error)) as running:
            reply = await running.post("/api/pull", {"model": "new"})
            assert reply.status == 200
            assert [json.loads(line) for line in reply.raw.splitlines()] == [LINES[0], {"error": message}]
            metrics = (await running.request("GET", "/metrics")).raw.decode()
            assert f'gguf_embed_errors_total{{kind="{kind}"}} 1.0' in metrics

    asyncio.run(scenario())


def test_a_later_error_without_a_stream_has_its_status():
    reply = post("/api/pull", {"model": "new", "stream": False}, pulling(STEPS[0], PullFailed("the disk is full")))
    assert (reply.status, reply.json) == (500, {"error": "the disk is full"})


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_ends_its_watch_of_the_pull(stream):
    async def scenario():
        service = pulling(*STEPS)
        service.gate.clear()
        async with serving(service) as running:
            request = asyncio.create_task(running.post("/api/pull", {"model": "new", "stream": stream}))
            await service.entered.wait()
            request.cancel()
            await service.cancelled.wait()
            assert (await running.request("GET", "/health")).status == 200

    asyncio.run(scenario())


def test_a_shutdown_does_not_wait_for_a_pull_whose_last_line_is_an_error():
    async def scenario():
        service = pulling(*STEPS)
        service.gate.clear()
        async with (
            serving(service) as running,
            running.http.post(running.url + "/api/pull", json={"model": "new"}) as reply,
        ):
            assert [json.loads(await reply.content.readline()) for _ in range(3)] == LINES[:3]
            running.stop.set()
            assert json.loads(await reply.content.readline())["error"].startswith("the server is shutting down")
            async with asyncio.timeout(20):  # waiting for requests in flight alone would take 60 s
                await running.done
            assert running.app[SERVER_CONTEXT].in_flight.stopping.is_set()
            assert service.cancelled.is_set()

    asyncio.run(scenario())


def test_a_copy_is_another_name_of_the_model():
    async def scenario():
        async with serving() as running:
            reply = await running.post("/api/copy", {"source": "tiny", "destination": "mine"})
            assert (reply.status, reply.raw) == (200, b"")
            assert (await running.post("/api/embed", {"model": "mine", "input": "a"})).status == 200
            tags = (await running.request("GET", "/api/tags")).json["models"]
            assert "mine:latest" in [entry["name"] for entry in tags]
            missing = await running.post("/api/copy", {"source": "nothing", "destination": "mine"})
            assert (missing.status, missing.json) == (404, {"error": 'model "nothing" not found'})

    asyncio.run(scenario())


@pytest.mark.parametrize("field", ["model", "name"])
def test_a_deleted_model_is_gone(field):
    async def scenario():
        async with serving() as running:
            reply = await running.request("DELETE", "/api/delete", json={field: "tiny"})
            assert (reply.status, reply.raw) == (200, b"")
            assert (await running.request("GET", "/api/tags")).json == {"models": []}

    asyncio.run(scenario())


def test_a_refused_deletion_has_a_reason():
    class Fixed(FakeService):
        async def delete(self, name: str) -> None:
            self.resolve(name, strict=True)
            raise PermissionDenied("tiny was named at the start")

    async def scenario():
        async with serving(Fixed()) as running:
            reply = await running.request("DELETE", "/api/delete", json={"model": "tiny"})
            assert (reply.status, reply.json) == (403, {"error": "tiny was named at the start"})
            reply = await running.request("DELETE", "/api/delete", json={"model": "nothing"})
            assert (reply.status, reply.json) == (404, {"error": "model 'nothing' not found"})

    asyncio.run(scenario())


CHANGES = (
    ("POST", "/api/pull", {"model": "new"}),
    ("POST", "/api/copy", {"source": "tiny", "destination": "mine"}),
    ("DELETE", "/api/delete", {"model": "tiny"}),
)


@pytest.mark.parametrize(("method", "path", "body"), CHANGES)
@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ({}, True),
        ({"Origin": "http://localhost:3000"}, True),
        ({"Origin": "chrome-extension://abc"}, True),
        ({"Origin": "https://evil.example"}, False),
        ({"Origin": "null"}, False),
        ({"Host": "evil.example"}, False),
        ({"Host": "evil.example", "Origin": "http://evil.example"}, False),
        ({"Host": "nas.local:11434", "Origin": "http://nas.local:11434"}, True),
    ],
)
def test_a_foreign_page_may_not_change_models(method, path, body, headers, allowed):
    async def scenario():
        async with serving() as running:
            before = running.service.models()
            reply = await running.request(method, path, json=body, headers=headers)
            assert reply.status == (200 if allowed else 403)
            if not allowed:
                assert "--api-key" in reply.json["error"]
                assert running.service.models() == before
                assert running.service.pulls == []

    asyncio.run(scenario())


@pytest.mark.parametrize(("method", "path", "body"), CHANGES)
def test_with_a_key_any_page_that_has_it_may(method, path, body):
    async def scenario():
        async with serving(api_keys=("one",)) as running:
            headers = {"Origin": "https://ui.example", "Host": "ui.example", "Authorization": "Bearer one"}
            assert (await running.request(method, path, json=body, headers=headers)).status == 200

    asyncio.run(scenario())
