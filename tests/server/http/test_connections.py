"""Connections that send nothing, or trickle, or do not read: deadlines, room for others, and true counts."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import logging
import socket

import aiohttp
import pytest
from aiohttp import web

from gguf_embed.metrics import Metrics
from gguf_embed.server import run as server_run
from gguf_embed.server.app import build_app
from gguf_embed.server.context import SERVER_CONTEXT, ServerContext, ServerOptions
from gguf_embed.server.http import connections, protocol
from gguf_embed.server.http.body import json_response
from gguf_embed.server.listen import ListenAddress
from gguf_embed.server.run import ShutdownOutcome, serve_all
from tests.server.fake_service import FakeService, holding, serving


async def connect(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", int(url.rsplit(":", 1)[1]))


async def answer_to(url: str) -> int:
    async with aiohttp.ClientSession() as http, http.get(f"{url}/health") as reply:
        return reply.status


def test_headers_that_trickle_in_are_ended_with_a_reason(monkeypatch):
    monkeypatch.setattr(protocol, "HEADER_TIMEOUT_S", 0.3)

    async def scenario():
        async with serving() as running:
            reader, writer = await connect(running.url)
            writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\n")
            trickle = asyncio.create_task(trickle_headers(writer))
            async with asyncio.timeout(10):
                said = await reader.read()
            trickle.cancel()
            writer.close()
            head, _, body = said.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 400 Bad Request\r\n")
            assert b"Connection: close" in head
            assert json.loads(body)["error"]["message"].startswith("no request has arrived within 0.3 s")

    asyncio.run(scenario())


def test_headers_of_a_later_request_have_the_same_deadline_and_an_idle_connection_has_none(monkeypatch):
    monkeypatch.setattr(protocol, "HEADER_TIMEOUT_S", 0.3)
    whole = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"

    async def scenario():
        async with serving() as running:
            idle = await connect(running.url)
            slow = await connect(running.url)
            for reader, writer in (idle, slow):
                writer.write(whole)
                await read_reply(reader)
            idle[1].write(b"\r\n")  # some clients end a body so
            for _ in range(2):
                slow[1].write(whole[:20])
                await asyncio.sleep(0)
                slow[1].write(whole[20:])
                await read_reply(slow[0])
            slow[1].write(whole[:-2])
            trickle = asyncio.create_task(trickle_headers(slow[1]))
            async with asyncio.timeout(10):
                said = await slow[0].read()
            trickle.cancel()
            assert said.startswith(b"HTTP/1.1 400 Bad Request\r\n")
            assert b"no request has arrived within 0.3 s" in said
            idle[1].write(whole)  # it has waited for longer than the other one
            await read_reply(idle[0])
            for _, writer in (idle, slow):
                writer.close()

    asyncio.run(scenario())


def test_the_body_of_a_request_is_not_the_beginning_of_the_next_one(monkeypatch):
    monkeypatch.setattr(protocol, "HEADER_TIMEOUT_S", 0.3)
    body = json.dumps({"input": "hello"}).encode() + b" " * 300_000
    whole = b"POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)

    async def scenario():
        async with serving() as running:
            clients = [await connect(running.url) for _ in range(5)]
            for reader, writer in clients:
                writer.write(whole)
                await read_reply(reader)
            await asyncio.sleep(0.6)
            for reader, writer in clients:
                writer.write(whole)
                await read_reply(reader)
                writer.close()

    asyncio.run(scenario())


async def read_reply(reader: asyncio.StreamReader) -> None:
    async with asyncio.timeout(10):
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        await reader.readexactly(int(head.split(b"Content-Length: ")[1].split(b"\r\n")[0]))


async def trickle_headers(writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"X-Slow: 1\r\n")
        await asyncio.sleep(0.05)


def test_a_request_in_time_has_no_deadline(monkeypatch):
    monkeypatch.setattr(protocol, "HEADER_TIMEOUT_S", 0.2)

    async def scenario():
        service = holding()
        async with serving(service) as running:
            asked = asyncio.create_task(running.post("/v1/embeddings", {"input": "a"}))
            await asyncio.sleep(0.5)
            service.gate.set()
            assert (await asked).status == 200

    asyncio.run(scenario())


def test_the_connection_that_waited_longest_makes_room_and_one_line_says_so(monkeypatch, caplog):
    monkeypatch.setattr(protocol, "connection_limit", lambda: 3)

    async def scenario():
        async with serving() as running:
            idle = [await connect(running.url) for _ in range(3)]
            await asyncio.sleep(0.05)
            with caplog.at_level(logging.WARNING):
                assert [await answer_to(running.url) for _ in range(4)] == [200] * 4
            async with asyncio.timeout(10):
                assert await idle[0][0].read() == b""
            assert not idle[1][0].at_eof()
            for _, writer in idle:
                writer.close()

    asyncio.run(scenario())
    lines = [record.message for record in caplog.records if "connections" in record.message]
    assert len(lines) == 1
    assert lines[0].startswith("3 connections, the limit with this process's descriptors: closed 1")


def test_a_client_for_whom_there_is_no_room_is_told_so(monkeypatch):
    monkeypatch.setattr(protocol, "connection_limit", lambda: 1)

    async def scenario():
        service = holding()
        async with serving(service) as running:
            busy = asyncio.create_task(running.post("/v1/embeddings", {"input": "a"}))
            await service.entered.wait()
            assert await answer_to(running.url) == 503
            service.gate.set()
            assert (await busy).status == 200
            assert await answer_to(running.url) == 200

    asyncio.run(scenario())


def test_the_limit_leaves_descriptors_for_files(monkeypatch):
    resource = pytest.importorskip("resource")
    set_to: list[tuple[int, int]] = []
    monkeypatch.setattr(connections.os, "listdir", lambda path: ["0"] * 20)
    monkeypatch.setattr(resource, "setrlimit", lambda kind, limits: set_to.append(limits))
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (256, 256))
    assert connections.connection_limit() == 256 - 20 - 32
    assert set_to == []
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (1024, 524_288))
    assert connections.connection_limit() == 65_536 - 20 - 8192
    assert set_to == [(65_536, 524_288)]


def event_of(monkeypatch, method: str) -> asyncio.Event:
    """Set when the server calls this method of a connection."""
    event, original = asyncio.Event(), getattr(protocol._Protocol, method)
    monkeypatch.setattr(protocol._Protocol, method, lambda self, *arguments: (original(self, *arguments), event.set()))
    return event


async def large(context: ServerContext, request: web.Request) -> web.Response:
    return json_response(b" " * 50_000_000)


@pytest.mark.parametrize("reads", [True, False])
def test_a_client_that_reads_slowly_gets_all_and_one_that_reads_nothing_is_left(monkeypatch, reads):
    monkeypatch.setattr(protocol, "READ_TIMEOUT_S", 0.5)
    is_left = event_of(monkeypatch, "connection_lost")

    async def scenario():
        app = build_app(FakeService(), ServerOptions("1"), Metrics())
        app.router.add_get("/large", functools.partial(large, app[SERVER_CONTEXT]))
        stop = asyncio.Event()
        ready = asyncio.get_running_loop().create_future()
        done = asyncio.create_task(serve_all(app, [ListenAddress(port=0)], stop, ready.set_result))
        reader, writer = await connect((await ready)[0])
        writer.write(b"GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n")
        n_bytes = 0
        if not reads:
            async with asyncio.timeout(10):
                await is_left.wait()
        with contextlib.suppress(ConnectionError):
            while n_bytes < 50_000_000 and (some := await reader.read(5_000_000)):
                n_bytes += len(some)
                await asyncio.sleep(0.02 if reads else 0)
        writer.close()
        stop.set()
        await done
        return n_bytes

    n_bytes = asyncio.run(scenario())
    assert (n_bytes > 50_000_000) if reads else (n_bytes < 50_000_000)


def test_a_reply_that_nobody_reads_is_counted(monkeypatch):
    monkeypatch.setattr(server_run, "CLOSE_TIMEOUT_S", 0.2)
    is_full = event_of(monkeypatch, "pause_writing")

    async def scenario():
        app = build_app(FakeService(), ServerOptions("1"), Metrics())
        app.router.add_get("/large", functools.partial(large, app[SERVER_CONTEXT]))
        stop = asyncio.Event()
        ready = asyncio.get_running_loop().create_future()
        done = asyncio.create_task(serve_all(app, [ListenAddress(port=0)], stop, ready.set_result))
        port = int((await ready)[0].rsplit(":", 1)[1])
        with socket.create_connection(("127.0.0.1", port)) as deaf:
            deaf.sendall(b"GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n")
            async with asyncio.timeout(10):
                await is_full.wait()
            stop.set()
            return await done

    assert asyncio.run(scenario()) == ShutdownOutcome(n_not_read=1)
