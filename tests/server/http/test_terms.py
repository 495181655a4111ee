"""Whose request it is, how urgent, and how long it may take."""

from __future__ import annotations

import asyncio

import pytest

from gguf_embed.errors import InvalidRequest
from gguf_embed.server.http.terms import client_of, parse_priority
from gguf_embed.types import CALLER, Caller, EmbedRequest, Priority
from tests.server.fake_service import FakeService, holding, serving

EMBED_BODIES = {
    "/v1/embeddings": {"input": "a"},
    "/embedding": {"content": "a"},
    "/v2/embed": {"texts": ["a"]},
    "/embed": {"inputs": "a"},
    "/api/embed": {"model": "tiny", "input": "a"},
    "/v1/rerank": {"query": "a", "documents": ["a"]},
    "/rerank": {"query": "a", "texts": ["a"]},
}
"""A request of each dialect, for vectors and for scores."""


class Noting(FakeService):
    """Notes the caller of each request."""

    def __init__(self) -> None:
        super().__init__()
        self.callers: list[Caller] = []

    async def _pass_gate(self) -> None:
        self.callers.append(CALLER.get())
        await super()._pass_gate()


@pytest.mark.parametrize(
    ("value", "priority"),
    [
        ("high", Priority.HIGH),
        (" Batch ", Priority.BATCH),
        (0, Priority.NORMAL),
        ("0", Priority.NORMAL),
        (-3, Priority.HIGH),
        ("-1", Priority.HIGH),
        (7, Priority.LOW),
        (999, Priority.LOW),
    ],
)
def test_a_class_has_a_name_or_a_number(value, priority):
    assert parse_priority(value, "priority") is priority


@pytest.mark.parametrize("value", ["urgent", "", "1.5", "--1", 1.5, True, [], {}, "x" * 10_000])
def test_anything_else_is_refused_in_few_words(value):
    with pytest.raises(InvalidRequest, match="priority") as refusal:
        parse_priority(value, "priority")
    assert len(refusal.value.message) <= 200


@pytest.mark.parametrize(
    ("address", "client"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::1", "::/64"),
    ],
)
def test_an_address_stands_for_its_client(address, client):
    assert client_of(address) == client


def asked(headers: dict[str, str], body: object = None, **options: object) -> Caller:
    async def scenario() -> Caller:
        service = Noting()
        async with serving(service, **options) as running:
            reply = await running.post("/v1/embeddings", {"input": "a"} if body is None else body, headers=headers)
            assert reply.status == 200, reply
        return service.callers[0]

    return asyncio.run(scenario())


KEYS = {"api_keys": ("one", "two", "three"), "key_classes": {"two": Priority.LOW, "three": Priority.HIGH}}


@pytest.mark.parametrize(
    ("headers", "fields", "expected"),
    [
        ({"X-Api-Key": "one"}, {}, Caller("key 1")),
        ({"X-Api-Key": "two"}, {}, Caller("key 2", Priority.LOW, Priority.LOW)),
        ({"X-Api-Key": "two", "X-Priority": "high"}, {}, Caller("key 2", Priority.LOW, Priority.LOW)),
        ({"X-Api-Key": "two", "X-Priority": "batch"}, {}, Caller("key 2", Priority.BATCH, Priority.LOW)),
        ({"X-Api-Key": "two"}, {"priority": -1}, Caller("key 2", Priority.LOW, Priority.LOW)),
        ({"X-Api-Key": "three"}, {"priority": 1}, Caller("key 3", Priority.LOW, Priority.HIGH)),
        ({"X-Api-Key": "one", "Authorization": "Bearer wrong"}, {}, Caller("key 1")),
        ({"X-Api-Key": "one", "X-Priority": "low"}, {"priority": "high"}, Caller("key 1", Priority.HIGH)),
        ({"X-Api-Key": "one", "X-Priority": "low"}, {"priority": None}, Caller("key 1", Priority.LOW)),
    ],
)
def test_a_key_is_a_client_and_its_class_the_highest(headers, fields, expected):
    found = asked(headers, {"input": "a", **fields}, **KEYS)
    assert (found, found.highest) == (expected, expected.highest)


def test_without_keys_an_address_is_a_client_whatever_a_header_says():
    assert asked({"X-Forwarded-For": "192.0.2.7", "X-Priority": "batch"}) == Caller("127.0.0.1", Priority.BATCH)


def test_every_dialect_takes_the_class_from_header_and_body():
    async def scenario() -> list[Priority]:
        service = Noting()
        async with serving(service) as running:
            for path, body in EMBED_BODIES.items():
                for reply in (
                    await running.post(path, body, headers={"X-Priority": "low"}),
                    await running.post(path, {**body, "priority": "batch"}),
                    await running.post(path, body),
                ):
                    assert reply.status == 200, (path, reply)
                refused = await running.post(path, {**body, "priority": "soon"})
                assert refused.status in (400, 422), (path, refused)
        return [caller.priority for caller in service.callers]

    assert asyncio.run(scenario()) == [Priority.LOW, Priority.BATCH, Priority.NORMAL] * len(EMBED_BODIES)


@pytest.mark.parametrize(
    ("limit_s", "header", "seconds", "way_out"),
    [
        (None, "0.2", "0.2", "a larger X-Request-Timeout"),
        (None, "200ms", "0.2", "a larger X-Request-Timeout"),
        (9.0, "0.2", "0.2", "a larger X-Request-Timeout"),
        (0.2, None, "0.2", "a larger --request-timeout"),
        (0.2, "60s", "0.2", "a larger --request-timeout"),
    ],
)
def test_a_request_that_takes_too_long_is_cancelled_and_gets_a_504(limit_s, header, seconds, way_out):
    async def scenario() -> None:
        service = holding()
        async with serving(service, request_timeout_s=limit_s) as running:
            headers = {} if header is None else {"X-Request-Timeout": header}
            for path, body in EMBED_BODIES.items():
                service.cancelled.clear()
                reply = await running.post(path, body, headers=headers)
                assert reply.status == 504, (path, reply)
                assert f"longer than {seconds} s".encode() in reply.raw
                assert way_out.encode() in reply.raw
                assert reply.headers["x-should-retry"] == "false"
                assert service.cancelled.is_set()
            metrics = (await running.request("GET", "/metrics")).raw.decode()
        assert f'gguf_embed_errors_total{{kind="deadline_exceeded"}} {len(EMBED_BODIES)}.0' in metrics

    asyncio.run(scenario())


@pytest.mark.parametrize("header", ["soon", "-1", "0", "nan", "inf", "1e999", "", "x" * 5000])
def test_a_header_that_is_no_time_is_a_400(header):
    async def scenario() -> None:
        async with serving() as running:
            reply = await running.post("/v1/embeddings", {"input": "a"}, headers={"X-Request-Timeout": header})
            assert reply.status == 400
            assert "X-Request-Timeout" in reply.json["error"]["message"]
            assert len(reply.json["error"]["message"]) <= 200

    asyncio.run(scenario())


def test_a_fast_request_and_a_download_are_not_affected():
    async def scenario() -> None:
        service = FakeService()
        async with serving(service, request_timeout_s=0.2) as running:
            assert (await running.post("/v1/embeddings", {"input": "a"})).status == 200
            service.gate.clear()
            asyncio.get_running_loop().call_later(0.5, service.gate.set)
            pulled = await running.post("/api/pull", {"model": "other", "stream": False})
            assert pulled.status == 200, pulled

    asyncio.run(scenario())


def test_an_error_of_the_service_passes_through_a_limited_request():
    async def scenario() -> None:
        service = FakeService()
        service.failure = TimeoutError("of the engine")
        async with serving(service, request_timeout_s=9.0) as running:
            assert (await running.post("/v1/embeddings", {"input": "a"})).status == 500

    asyncio.run(scenario())


def test_requests_of_one_connection_do_not_inherit_a_class():
    async def scenario() -> list[Priority]:
        service = Noting()
        async with serving(service) as running:
            for fields in ({"priority": "low"}, {}):
                await running.post("/v1/embeddings", {"input": "a", **fields})
        return [caller.priority for caller in service.callers]

    assert asyncio.run(scenario()) == [Priority.LOW, Priority.NORMAL]


def test_a_request_is_still_an_embed_request():
    """The class travels beside the request, so that equal requests stay equal for the cache."""
    assert "priority" not in EmbedRequest.__dataclass_fields__
