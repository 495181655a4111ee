"""The load generator: a closed loop of keep-alive HTTP/1.1 clients in one thread, on raw sockets.

It shares the cores with the server that it measures, so it does as little as possible while the clock runs: requests
are encoded before and replies parsed after. One thread with a selector was the cheapest of three designs measured
(`docs/benchmarks.md`).
"""

from __future__ import annotations

import gc
import re
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from selectors import EVENT_READ, DefaultSelector

from gguf_embed.errors import EngineFailure, Unavailable

HOST = "127.0.0.1"
REPLY_TIMEOUT_S = 120.0
_RECEIVE_BYTES = 64 * 1024  # malloc gets larger buffers from the kernel every time
_CONTENT_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)", re.IGNORECASE)
_CLOSES = re.compile(rb"\r\nconnection:[ \t]*close", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class LoadResult:
    """One run: the latency and the raw reply of each request, in the order of the requests."""

    wall_s: float  # first byte sent to last byte received
    latencies_s: tuple[float, ...]
    replies: tuple[bytes, ...]  # bodies only
    generator_cpu_s: float  # CPU time of this process
    n_reconnects: int  # connections that the server closed and a client opened again


@dataclass(slots=True)
class _Client:
    """One connection, and the request that it is waiting for."""

    connection: socket.socket
    index: int = 0
    sent_s: float = 0.0
    received: bytearray = field(default_factory=bytearray)
    n_expected: int = 0  # bytes of the whole reply; 0 until its header is complete
    body_start: int = 0
    closes: bool = False  # the server closes the connection after this reply


def frame_request(path: str, body: bytes) -> bytes:
    """The bytes of one POST request on a keep-alive connection."""
    head = (
        f"POST {path} HTTP/1.1",
        f"Host: {HOST}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        "\r\n",
    )
    return "\r\n".join(head).encode() + body


def run_load(port: int, requests: Sequence[bytes], n_clients: int) -> LoadResult:
    """Send all requests in order, each from the first client that is free, and wait for all replies.

    Raises `EngineFailure` for a reply other than 200, `Unavailable` if the server does not answer. Blocks; needs no
    event loop.
    """
    with ExitStack() as stack, _quiet_collector():
        loop = _ClosedLoop(port, requests, stack.enter_context(DefaultSelector()))
        try:
            loop.connect(min(n_clients, len(requests)))
            return loop.run()
        except ConnectionError as error:
            raise Unavailable(f"the server on port {port} dropped a connection: {error}") from error
        finally:
            loop.close()


class _ClosedLoop:
    """The clients of one run. Belongs to one thread."""

    def __init__(self, port: int, requests: Sequence[bytes], selector: DefaultSelector) -> None:
        self._port = port
        self._requests = requests
        self._selector = selector
        self._clients: list[_Client] = []
        self._next = 0
        self._n_done = 0
        self._n_reconnects = 0
        self._latencies = [0.0] * len(requests)
        self._replies: list[bytes] = [b""] * len(requests)

    def connect(self, n_clients: int) -> None:
        for _ in range(n_clients):
            client = _Client(_open_connection(self._port))
            self._clients.append(client)
            self._selector.register(client.connection, EVENT_READ, client)

    def close(self) -> None:
        for client in self._clients:
            client.connection.close()

    def run(self) -> LoadResult:
        started_cpu_s, started_s = time.process_time(), time.perf_counter()
        for client in self._clients:
            self._send_next(client)
        while self._n_done < len(self._requests):
            ready = self._selector.select(REPLY_TIMEOUT_S)
            if not ready:
                raise Unavailable(f"no reply from the server on port {self._port} in {REPLY_TIMEOUT_S:.0f} s")
            for key, _ in ready:
                self._receive(key.data)
        wall_s, cpu_s = time.perf_counter() - started_s, time.process_time() - started_cpu_s
        return LoadResult(wall_s, tuple(self._latencies), tuple(self._replies), cpu_s, self._n_reconnects)

    def _send_next(self, client: _Client) -> None:
        if self._next == len(self._requests):
            # A client without further requests closes its connection. llama-server uses one thread per connection, and
            # by default it has fewer threads than there are clients: an idle one would make another wait for 5 s.
            self._selector.unregister(client.connection)
            client.connection.close()
            return
        client.index = self._next
        self._next += 1
        client.sent_s = time.perf_counter()
        client.connection.sendall(self._requests[client.index])

    def _receive(self, client: _Client) -> None:
        """Read what has arrived. If the reply is complete, send this client's next request."""
        received = client.connection.recv(_RECEIVE_BYTES)
        if not received:
            self._reopen(client)
            return
        client.received += received
        if not client.n_expected:
            _read_head(client)
        if client.n_expected and len(client.received) >= client.n_expected:
            self._finish(client)

    def _finish(self, client: _Client) -> None:
        self._latencies[client.index] = time.perf_counter() - client.sent_s
        self._replies[client.index] = bytes(memoryview(client.received)[client.body_start :])
        self._n_done += 1
        client.received.clear()
        client.n_expected = 0
        if client.closes and self._next < len(self._requests):
            self._replace_connection(client)
        self._send_next(client)

    def _reopen(self, client: _Client) -> None:
        """The server closed the connection. It may do so between replies, so send the request again."""
        if client.received:
            raise ConnectionResetError("closed in the middle of a reply")
        self._replace_connection(client)
        client.connection.sendall(self._requests[client.index])

    def _replace_connection(self, client: _Client) -> None:
        self._n_reconnects += 1
        if self._n_reconnects > len(self._requests):
            raise ConnectionResetError("it closes every connection")
        self._selector.unregister(client.connection)
        client.connection.close()
        client.connection = _open_connection(self._port)
        client.closes = False
        self._selector.register(client.connection, EVENT_READ, client)


def _read_head(client: _Client) -> None:
    """Once the header is complete, find where the reply ends. Refuse anything but a 200 with a Content-Length."""
    end = client.received.find(b"\r\n\r\n")
    if end < 0:
        return
    head = bytes(client.received[: end + 2])
    if not head.startswith(b"HTTP/1.1 200"):
        status = head.split(b"\r\n", 1)[0].decode(errors="replace")
        excerpt = bytes(client.received[end + 4 : end + 404]).decode(errors="replace")
        raise EngineFailure(f"the server answered {status!r} to request {client.index}: {excerpt}")
    length = _CONTENT_LENGTH.search(head)
    if length is None:
        raise EngineFailure("the reply has no Content-Length, which this load generator needs")
    client.body_start = end + 4
    client.n_expected = client.body_start + int(length[1])
    client.closes = _CLOSES.search(head) is not None


def _open_connection(port: int) -> socket.socket:
    """A blocking socket: requests are short, and it is read only when the selector reports data."""
    connection = socket.create_connection((HOST, port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


@contextmanager
def _quiet_collector() -> Iterator[None]:
    """No garbage collection while the clock runs."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
