"""Starts the server, handles signals, and shuts down after finishing accepted requests."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from aiohttp import web

from gguf_embed.server.context import SERVER_CONTEXT
from gguf_embed.server.http.protocol import HttpRunner
from gguf_embed.server.listen import BoundAddress, ListenAddress, bind_all

CLOSE_TIMEOUT_S = 5.0  # for sending the last replies to slow clients, after the handlers are done


@dataclass(frozen=True, slots=True)
class ShutdownOutcome:
    """What became of the requests that had been accepted."""

    n_not_computed: int = 0  # in time; they got a 503
    n_not_read: int = 0  # replies whose clients did not take them


def handle_signals(stop: asyncio.Event, report: Callable[[bool], None] = lambda again: None) -> None:
    """Make SIGTERM and SIGINT set `stop`. A second signal ends the process at once, with status 128 + its number.

    `report` is called first: with False for the first signal, with True for the second.
    """
    loop = asyncio.get_running_loop()

    def on_signal(number: int) -> None:
        again = stop.is_set()
        report(again)
        if again:
            os._exit(128 + number)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)


async def serve_all(
    app: web.Application,
    addresses: Sequence[ListenAddress],
    stop: asyncio.Event,
    on_ready: Callable[[Sequence[str]], None] | None = None,
    drain_timeout_s: float = 60.0,
    tls: ssl.SSLContext | None = None,
) -> ShutdownOutcome:
    """Serve until `stop` is set, then refuse new work and finish accepted requests, for up to `drain_timeout_s`.

    `on_ready` is called once, when all ports are open, with one URL per address, in order. A client that disconnects
    cancels its handler. Raises `ConfigError` if an address is not available.
    """
    runner = HttpRunner(
        app,
        access_log=None,
        handler_cancellation=True,
        shutdown_timeout=CLOSE_TIMEOUT_S,
        auto_decompress=False,  # http/body.py does it
    )
    await runner.setup()
    opened: list[BoundAddress] = []
    try:
        opened += bind_all(addresses)
        for bound in opened:
            await _listen(runner, bound, tls)
        if on_ready is not None:
            prefix = app[SERVER_CONTEXT].options.api_prefix
            on_ready([bound.url("http" if tls is None else "https", prefix) for bound in opened])
        await stop.wait()
        for site in tuple(runner.sites):
            await site.stop()
        context = app[SERVER_CONTEXT]
        n_not_computed = await context.in_flight.finish(drain_timeout_s, context.service.shed)
        return ShutdownOutcome(n_not_computed, await runner.count_unread(CLOSE_TIMEOUT_S))
    finally:
        await runner.cleanup()
        for bound in opened:
            bound.close()


class _UnixSite(web.BaseSite):
    """A site on a Unix socket that is bound already."""

    def __init__(self, runner: web.AppRunner, bound: socket.socket) -> None:
        super().__init__(runner)
        self._bound = bound

    @property
    def name(self) -> str:
        return f"unix:{self._bound.getsockname()}"

    async def start(self) -> None:
        await super().start()
        server = self._runner.server
        assert server is not None  # the runner has been set up
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(server, sock=self._bound, backlog=self._backlog)


async def _listen(runner: web.AppRunner, bound: BoundAddress, tls: ssl.SSLContext | None) -> None:
    """Open one address. A Unix socket never uses TLS."""
    for one in bound.sockets:
        if bound.address.socket_path is not None:
            await _UnixSite(runner, one).start()
        else:
            await web.SockSite(runner, one, ssl_context=tls).start()
