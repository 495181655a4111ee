"""A server for one test that answers each request according to a script, on its own thread."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Answer = Callable[[int, bytes], tuple[list[bytes], bool]]
"""From a request's number and body: the pieces to write, and whether to close the connection after them."""


def ok(body: bytes, *, close: bool = False) -> bytes:
    connection = b"Connection: close\r\n" if close else b""
    return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n%s\r\n%s" % (len(body), connection, body)


@contextmanager
def fake_server(answer: Answer) -> Iterator[int]:
    """Yields its port."""
    ready: list[tuple[asyncio.AbstractEventLoop, asyncio.Event, int]] = []
    started = threading.Event()

    async def main() -> None:
        count = iter(range(1_000_000))
        connections: set[asyncio.Task[None]] = set()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            connections.add(task)
            try:
                while head := await reader.readuntil(b"\r\n\r\n"):
                    length = re.search(rb"Content-Length: (\d+)", head)
                    assert length is not None
                    pieces, close = answer(next(count), await reader.readexactly(int(length[1])))
                    for piece in pieces:
                        writer.write(piece)
                        await writer.drain()
                    if close:
                        break
            except (asyncio.IncompleteReadError, ConnectionError):
                pass
            finally:
                connections.discard(task)
                writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        stop = asyncio.Event()
        ready.append((asyncio.get_running_loop(), stop, server.sockets[0].getsockname()[1]))
        started.set()
        await stop.wait()
        server.close()
        for task in tuple(connections):
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    thread = threading.Thread(target=asyncio.run, args=(main(),))
    thread.start()
    started.wait()
    loop, stop, port = ready[0]
    try:
        yield port
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
