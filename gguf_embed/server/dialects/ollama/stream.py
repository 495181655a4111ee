"""Streamed replies with one JSON object per line."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from aiohttp import web

from gguf_embed.errors import EmbedError, EngineFailure, Unavailable
from gguf_embed.server.context import ServerContext
from gguf_embed.server.dialects.ollama.errors import ERRORS
from gguf_embed.server.http.errors import INTERNAL_MESSAGE, format_error
from gguf_embed.server.http.middleware import set_common_headers
from gguf_embed.types import PullProgress

logger = logging.getLogger(__name__)


FormatLine = Callable[[PullProgress], bytes]


async def stream_lines(
    context: ServerContext, request: web.Request, steps: AsyncIterator[PullProgress], format_line: FormatLine
) -> web.StreamResponse:
    """Send each step when it arrives.

    An error before the first step is raised and gets its own status. A later one becomes the last line,
    `{"error": "…"}`, because the status has already been sent.
    """
    response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
    set_common_headers(context, request, response)
    try:
        async for step in steps:
            await _send(request, response, format_line(step))
    except Exception as error:
        if not response.prepared:
            raise
        failure = error if isinstance(error, EmbedError) else EngineFailure(INTERNAL_MESSAGE)
        context.metrics.observe_error(failure.kind)
        logger.warning("%s after the first line: %s", failure.kind, failure.message, exc_info=failure is not error)
        await _send(request, response, format_error(failure, ERRORS).body)
    await response.write_eof()
    return response


async def _send(request: web.Request, response: web.StreamResponse, line: bytes) -> None:
    """Raises `asyncio.CancelledError` if the client has disconnected, like aiohttp does a moment later."""
    try:
        if not response.prepared:
            await response.prepare(request)
        await response.write(line + b"\n")
    except ConnectionError as exc:
        raise asyncio.CancelledError from exc


@asynccontextmanager
async def watching(
    context: ServerContext, steps: AsyncIterator[PullProgress]
) -> AsyncIterator[AsyncIterator[PullProgress]]:
    """The steps, until the server shuts down: then it raises `Unavailable`, because a download may take long.

    In any case, the source of the steps is closed at the end.
    """
    try:
        yield _until_stop(context, steps)
    finally:
        if isinstance(steps, AsyncGenerator):
            await steps.aclose()


async def _until_stop(context: ServerContext, steps: AsyncIterator[PullProgress]) -> AsyncIterator[PullProgress]:
    while True:
        async with _ended_by_stop(context):
            try:
                step = await anext(steps)
            except StopAsyncIteration:
                return
        yield step


@asynccontextmanager
async def _ended_by_stop(context: ServerContext) -> AsyncIterator[None]:
    stopping = asyncio.create_task(context.in_flight.stopping.wait())
    try:
        async with asyncio.timeout(None) as scope:

            def end(waited: asyncio.Task[bool]) -> None:
                if not waited.cancelled():
                    with suppress(RuntimeError):  # the block has just ended
                        scope.reschedule(0)  # in the past: now

            stopping.add_done_callback(end)
            yield
    except TimeoutError as exc:
        if not scope.expired():
            raise
        raise Unavailable("the server is shutting down: retry after it has restarted") from exc
    finally:
        stopping.cancel()
