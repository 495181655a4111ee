"""Starting, draining, signals."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
import textwrap
from dataclasses import replace

import aiohttp
import pytest

from gguf_embed.errors import ConfigError
from gguf_embed.metrics import Metrics
from gguf_embed.server import run as server_run
from gguf_embed.server.app import build_app
from gguf_embed.server.context import SERVER_CONTEXT, ServerOptions
from gguf_embed.server.listen import ListenAddress
from gguf_embed.server.run import ShutdownOutcome, serve_all
from gguf_embed.server.shutdown import RESTART_S, InFlightRequests
from tests.server.fake_service import FakeService, holding, serving


def test_a_stop_answers_what_was_accepted_and_refuses_the_rest():
    async def scenario():
        service = holding()
        async with serving(service) as running, aiohttp.ClientSession() as other:
            async with other.get(running.url + "/health") as reply:
                await reply.read()  # leaves a kept-alive connection
            service.status = replace(service.status, queued_s=7.0)
            accepted = asyncio.create_task(running.post("/v1/embeddings", {"input": "a"}))
            await service.entered.wait()
            running.stop.set()
            await running.app[SERVER_CONTEXT].in_flight.stopping.wait()
            async with other.post(running.url + "/v1/embeddings", json={"input": "b"}) as late:
                assert late.status == 503
                assert late.headers["Connection"] == "close"
                assert (await late.json())["error"]["code"] == "service_unavailable"
                assert late.headers["Retry-After"] == str(round(RESTART_S + 7))
            async with aiohttp.ClientSession() as stranger:
                with pytest.raises(aiohttp.ClientConnectorError):
                    await stranger.get(running.url + "/health")
            assert not running.done.done()
            service.gate.set()
            answered = await accepted
            assert answered.status == 200
            assert answered.headers["Connection"] == "close"
            await running.done

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("drain_timeout_s", "queued_s", "told_s"), [(60, 0, 5), (60, 20, 25), (3, 20, 8), (900, 800, 60)]
)
def test_during_a_shutdown_clients_are_told_to_come_back_after_what_is_queued(drain_timeout_s, queued_s, told_s):
    async def scenario() -> float:
        in_flight = InFlightRequests()
        task = asyncio.current_task()
        in_flight.enter(task)
        finishing = asyncio.create_task(in_flight.finish(drain_timeout_s, lambda left_s: None))
        await in_flight.stopping.wait()
        told = in_flight.restarted_in_s(queued_s)
        in_flight.leave(task)
        await finishing
        return told

    assert asyncio.run(scenario()) == pytest.approx(told_s, abs=0.9)


def test_health_fails_during_a_shutdown():
    async def scenario():
        service = holding()
        async with serving(service) as running, aiohttp.ClientSession() as other:
            async with other.get(running.url + "/health") as reply:
                await reply.read()
            accepted = asyncio.create_task(running.post("/v1/embeddings", {"input": "a"}))
            await service.entered.wait()
            running.stop.set()
            await running.app[SERVER_CONTEXT].in_flight.stopping.wait()
            async with other.get(running.url + "/health") as reply:
                assert reply.status == 503
            service.gate.set()
            await accepted

    asyncio.run(scenario())


def test_a_shutdown_answers_503_after_its_timeout_and_counts_those_requests():
    async def scenario():
        service = holding()
        app = build_app(service, ServerOptions("1"), Metrics())
        stop = asyncio.Event()
        ready = asyncio.get_running_loop().create_future()
        done = asyncio.create_task(serve_all(app, [ListenAddress(port=0)], stop, ready.set_result, drain_timeout_s=0))
        async with aiohttp.ClientSession() as http:
            stuck = asyncio.create_task(http.post((await ready)[0] + "/embedding", json={"input": "a"}))
            await service.entered.wait()
            stop.set()
            await service.cancelled.wait()
            async with await stuck as reply:
                assert reply.status == 503
                assert "the time that is left is too short" in (await reply.json())["error"]["message"]
            return await done

    assert asyncio.run(scenario()) == ShutdownOutcome(n_not_computed=1)


def test_a_stop_does_not_wait_for_half_a_body(monkeypatch):
    monkeypatch.setattr(server_run, "CLOSE_TIMEOUT_S", 0.1)

    async def scenario():
        app = build_app(FakeService(), ServerOptions("1"), Metrics())
        stop = asyncio.Event()
        ready = asyncio.get_running_loop().create_future()
        done = asyncio.create_task(serve_all(app, [ListenAddress(port=0)], stop, ready.set_result))
        port = int((await ready)[0].rsplit(":", 1)[1])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(
            b"POST /embedding HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\nExpect: 100-continue\r\n\r\n"
        )
        assert b"100" in await reader.readline()  # the server has begun to read the body
        stop.set()
        async with asyncio.timeout(20):  # waiting for requests in flight alone would take 60 s
            outcome = await done
        writer.close()
        return outcome

    assert asyncio.run(scenario()) == ShutdownOutcome()


def serve_at(host: str, port: int) -> None:
    """Try to listen; the server stops at once where it can."""

    async def scenario():
        stop = asyncio.Event()
        stop.set()
        await serve_all(build_app(FakeService(), ServerOptions("1"), Metrics()), [ListenAddress(host, port)], stop)

    asyncio.run(scenario())


def test_a_port_in_use_is_one_clear_line():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"^port {port} on 127.0.0.1 is in use: .*--port$"):
            serve_at("127.0.0.1", port)


@pytest.mark.parametrize(
    ("host", "port", "message"),
    [("127.0.0.1", 70000, "port 70000 does not exist"), ("192.0.2.1", 0, "cannot listen on 192.0.2.1")],
)
def test_an_impossible_address_is_one_clear_line(host, port, message):
    with pytest.raises(ConfigError, match=message):
        serve_at(host, port)


def test_ready_gets_the_real_port_and_ipv6_gets_brackets():
    async def scenario():
        stop = asyncio.Event()
        stop.set()
        urls: list[str] = []
        app = build_app(FakeService(), ServerOptions("1"), Metrics())
        await serve_all(app, [ListenAddress("::1", 0)], stop, urls.extend)
        return urls

    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    try:
        (url,) = asyncio.run(scenario())
    except ConfigError:
        pytest.skip("no IPv6 address here")
    assert url.startswith("http://[::1]:")
    assert not url.endswith(":0")


SERVER = textwrap.dedent("""
    import asyncio, sys
    from gguf_embed.metrics import Metrics
    from gguf_embed.server.app import build_app
    from gguf_embed.server.context import ServerOptions
    from gguf_embed.server.listen import ListenAddress
    from gguf_embed.server.run import handle_signals, serve_all
    from tests.server.fake_service import FakeService

    def say(line):
        print(line, flush=True)

    async def main():
        stop, service = asyncio.Event(), FakeService()
        service.gate.clear()
        handle_signals(stop, lambda again: say(f"signal {again}"))
        app = build_app(service, ServerOptions("1"), Metrics())
        serving = asyncio.create_task(serve_all(app, [ListenAddress(port=0)], stop, lambda urls: say(urls[0])))
        if "hold" in sys.argv:
            await service.entered.wait()
            say("holding")
        await stop.wait()
        say("stopping")
        await serving

    asyncio.run(main())
""")


@pytest.fixture
def server_process():
    """Start the script above with arguments. It is always killed at the end."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> tuple[subprocess.Popen[str], str]:
        command = [sys.executable, "-c", SERVER, *arguments]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        started.append(process)
        return process, process.stdout.readline().strip()

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_with_nothing_in_flight_ends_with_zero(server_process, number):
    process, url = server_process()
    assert url.startswith("http://127.0.0.1:")
    process.send_signal(number)
    assert process.wait(20) == 0


def test_a_second_signal_ends_at_once(server_process):
    process, url = server_process("hold")
    port = int(url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)) as client:
        body = b'{"input": "a"}'
        client.sendall(
            b"POST /embedding HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
        )
        assert process.stdout.readline() == "holding\n"
        process.send_signal(signal.SIGTERM)
        assert [process.stdout.readline() for _ in range(2)] == ["signal False\n", "stopping\n"]
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == "signal True\n"
        assert process.wait(20) == 128 + signal.SIGTERM
