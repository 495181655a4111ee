"""Starts the server, handles signals, and shuts down after finishing accepted requests."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from aiohttp import web

from gguf_embed.errors import ConfigError
from gguf_embed.server.context import SERVER_CONTEXT

CLOSE_TIMEOUT_S = 5.0  # for sending the last replies to slow clients, after the handlers are done


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """Where to listen. Port 0 means any free port."""

    host: str = "127.0.0.1"
    port: int = 8080
    flag: str = "--port"  # the flag that sets the port, for errors


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


def check_address(address: ListenAddress) -> None:
    """Check that the address is free before a model is loaded. Raises `ConfigError` if it is not."""
    if address.port == 0:
        return
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address.host, address.port))
        except OSError as exc:
            raise ConfigError(_bind_error(exc, address)) from exc


async def serve_all(
    app: web.Application,
    addresses: Sequence[ListenAddress],
    stop: asyncio.Event,
    on_ready: Callable[[Sequence[str]], None] | None = None,
    drain_timeout_s: float = 60.0,
) -> int:
    """Serve until `stop` is set, then refuse new work, finish accepted requests, and return how many were cancelled.

    `on_ready` is called once, when all ports are open, with one URL per address, in order. A client that disconnects
    cancels its handler. Raises `ConfigError` if an address is not available.
    """
    runner = web.AppRunner(
        app,
        access_log=None,
        handler_cancellation=True,
        shutdown_timeout=CLOSE_TIMEOUT_S,
        auto_decompress=False,  # http/body.py does it
    )
    await runner.setup()
    try:
        urls = [await _listen(runner, address) for address in addresses]
        if on_ready is not None:
            on_ready(urls)
        await stop.wait()
        for site in tuple(runner.sites):
            await site.stop()
        return await app[SERVER_CONTEXT].in_flight.finish(drain_timeout_s)
    finally:
        await runner.cleanup()


async def _listen(runner: web.AppRunner, address: ListenAddress) -> str:
    """Open one port. Returns its URL, with the actual port."""
    if not 0 <= address.port <= 65535:
        raise ConfigError(f"port {address.port} does not exist: choose one from 0 to 65535 with {address.flag}")
    n_open = len(runner.addresses)
    try:
        await web.TCPSite(runner, address.host, address.port).start()
    except OSError as exc:
        raise ConfigError(_bind_error(exc, address)) from exc
    port = runner.addresses[n_open][1]
    host = f"[{address.host}]" if ":" in address.host else address.host
    return f"http://{host}:{port}"


def _bind_error(error: OSError, address: ListenAddress) -> str:
    host, port, flag = address.host, address.port, address.flag
    match error.errno:
        case errno.EADDRINUSE:
            return f"port {port} on {host} is in use: stop the program that uses it, or choose another with {flag}"
        case errno.EACCES:
            return f"port {port} on {host} needs privileges: choose one above 1023 with {flag}"
        case _:
            return f"cannot listen on {host} port {port}: {error.strerror or error}: check --host and {flag}"
