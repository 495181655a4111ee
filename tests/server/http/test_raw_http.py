"""Bytes that no HTTP library would send."""

from __future__ import annotations

import asyncio

import pytest

from tests.server.fake_service import FakeService, serving

ODD_REQUESTS = (
    b"GET /v1/models/\xff HTTP/1.1\r\nHost: localhost\r\n",
    b"GET /v1/models/%ff%00 HTTP/1.1\r\nHost: localhost\r\n",
    b"PUT /v1/models/\xff\xfe HTTP/1.1\r\nHost: localhost\r\n",
    b"GET /\xff HTTP/1.1\r\nHost: localhost\r\n",
    b"GET / HTTP/1.1\r\nHost: \xff\r\n",
    b"GET / HTTP/1.0\r\n",
    b"GET /props HTTP/1.1\r\nHost: localhost\r\nOrigin: \xff\r\n",
    b"GET /props HTTP/1.1\r\nHost: localhost\r\nOrigin: \xc3\xa9\r\n",
    b"GET /props HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: \xff\r\n",
    b"GET /props HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer \xff\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n",
    b"POST /embedding HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n",
    b"POST /embedding HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nExpect: 200-ok\r\n",
    b"POST /embedding HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nContent-Encoding: xyz\r\n",
    b"POST /embedding HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n",
    b"POST /embedding HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999999999999\r\n",
    b"POST /embedding HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nContent-Type: \xff\r\n",
    b"BREW /embedding HTTP/1.1\r\nHost: localhost\r\n",
    b"\x00\x01\x02",
)


@pytest.mark.parametrize("head", ODD_REQUESTS)
def test_odd_bytes_never_make_a_500(head):
    async def scenario():
        async with serving(FakeService(strict_model=True)) as running:
            host, port = running.url.removeprefix("http://").split(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(head + b"Connection: close\r\n\r\n" + (b"2\r\n{}\r\n0\r\n\r\n" if b"chunked" in head else b""))
            status_line = await reader.readline()
            writer.close()
            await writer.wait_closed()
            assert status_line == b"" or 200 <= int(status_line.split()[1]) < 500, status_line

    asyncio.run(scenario())


def test_curls_expect_100_continue_is_served():
    async def scenario():
        async with serving() as running:
            body = b'{"input": "a"}'
            head = b"POST /embedding HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nExpect: 100-continue\r\n"
            host, port = running.url.removeprefix("http://").split(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(head + b"Content-Length: %d\r\n\r\n" % len(body))
            assert await reader.readline() == b"HTTP/1.1 100 Continue\r\n"
            writer.write(body)
            assert b"HTTP/1.1 200 OK" in await reader.read()
            writer.close()
            await writer.wait_closed()

    asyncio.run(scenario())
