"""Large headers, keys in Azure's header, and bytes that are no request: answers in JSON with a request id."""

from __future__ import annotations

import asyncio
import json

import pytest

from gguf_embed.server.http.errors import MAX_HEADER_BYTES
from tests.server.fake_service import serving

ROUTES = {
    "/v1/embeddings": (b'{"input": "a"}', ("error", "code"), "headers_too_large"),
    "/embedding": (b'{"input": "a"}', ("error", "code"), 431),
    "/embeddings": (b'{"input": "a"}', ("error", "code"), 431),
    "/api/embed": (b'{"model": "tiny", "input": "a"}', ("error",), None),
    "/v2/embed": (b'{"texts": ["a"]}', ("message",), None),
    "/embed": (b'{"inputs": "a"}', ("error_type",), "Validation"),
    "/nothing": (b"{}", ("error", "code"), 431),
}


async def exchange(running, head: bytes, body: bytes = b"") -> tuple[int, dict[str, str], bytes]:
    """Send these bytes; the status, the headers and the body of the answer."""
    host, port = running.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(head + b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(body) + body)
    raw = await reader.read()
    writer.close()
    top, _, rest = raw.partition(b"\r\n\r\n")
    status, *lines = top.decode("latin-1").split("\r\n")
    return int(status.split()[1]), dict(line.split(": ", 1) for line in lines), rest


def head_of(path: str, *lines: bytes) -> bytes:
    return b"".join([f"POST {path} HTTP/1.1\r\n".encode(), b"Host: localhost\r\n", *(line + b"\r\n" for line in lines)])


@pytest.mark.parametrize("path", [path for path in ROUTES if path != "/nothing"])
@pytest.mark.parametrize(
    "lines",
    [
        [b"Cookie: " + b"c" * 9_000],
        [b"Authorization: Bearer " + b"t" * 9_000],
        [b"Cookie: " + b"c" * 60_000],
        [b"X-%d: %s" % (n, b"v" * 400) for n in range(120)],
        [b"X-%d: v" % n for n in range(300)],
    ],
)
def test_64_kilobytes_of_headers_are_read(path, lines):
    async def scenario():
        async with serving() as running:
            status, _, body = await exchange(running, head_of(path, *lines), ROUTES[path][0])
            assert status == 200, body

    asyncio.run(scenario())


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize(
    "lines", [[b"Cookie: " + b"c" * MAX_HEADER_BYTES], [b"X-%d: %s" % (n, b"v" * 900) for n in range(100)]]
)
def test_more_is_a_431_in_the_routes_dialect(path, lines):
    async def scenario():
        async with serving() as running:
            status, headers, raw = await exchange(running, head_of(path, *lines), ROUTES[path][0])
            assert (status, headers["Content-Type"]) == (431, "application/json")
            assert headers["X-Request-Id"]
            body = json.loads(raw)
            assert f"{MAX_HEADER_BYTES:,}" in raw.decode()
            _, where, value = ROUTES[path]
            for key in where:
                body = body[key]
            assert value is None or body == value

    asyncio.run(scenario())


def test_a_path_counts_too():
    async def scenario():
        async with serving() as running:
            assert (await exchange(running, head_of("/embedding?" + "q" * 9_000), b'{"input": "a"}'))[0] == 200
            assert (await exchange(running, head_of("/embedding?" + "q" * 70_000), b"{}"))[0] == 431
            assert (await exchange(running, head_of("/v1/models/" + "q" * 70_000), b"{}"))[0] == 431

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (head_of("/embedding", b"Cookie: " + b"c" * 2**20), 431),
        (head_of("/embedding", b"no colon"), 400),
        (head_of("/embedding", *(b"X-%d: v" % n for n in range(2_000))), 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 TLS\r\n\r\n", 400),
        (b"GET / HTTP/9\r\n", 400),
        (b"not a request\r\n\r\n", 400),
    ],
)
def test_what_is_no_request_gets_json_with_a_request_id(head, expected):
    async def scenario():
        async with serving() as running:
            status, headers, raw = await exchange(running, head)
            assert (status, headers["Content-Type"], headers["Server"]) == (expected, "application/json", "gguf-embed")
            assert len(headers["X-Request-Id"]) == 24
            error = json.loads(raw)["error"]
            assert (error["code"], error["type"]) == (expected, "invalid_request_error")
            assert (await running.request("GET", "/health")).status == 200

    asyncio.run(scenario())


@pytest.mark.parametrize("header", ["api-key", "Api-Key", "X-Api-Key"])
def test_a_key_may_come_in_azures_header(header):
    async def scenario():
        async with serving(api_keys=("one",)) as running:
            path = "/openai/deployments/tiny/embeddings?api-version=2024-02-01"
            reply = await running.post(path, {"input": "a"}, headers={header: "one"})
            assert (reply.status, reply.json["model"]) == (200, "tiny")
            assert (await running.post(path, {"input": "a"}, headers={header: "two"})).status == 401
            assert (await running.post(path, {"input": "a"})).status == 401

    asyncio.run(scenario())
