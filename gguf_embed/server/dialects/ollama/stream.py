"""Replies of one JSON object per line, written while the work goes on."""

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
    """Send each step when it comes.

    An error before the first is raised, and gets its status; a later one becomes the last line, `{"error": "…"}`,
    because the status is out already.
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
    """Raises `asyncio.CancelledError` where the client has gone, as its handler would be told a moment later."""
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
    """The steps, until the server begins to stop: then `Unavailable`, a download would hold it up for long.

    However this ends, the source of the steps is told that nobody listens any more.
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
                    with suppress(RuntimeError):  # all inside was done in this very moment
                        scope.reschedule(0)  # in the past: now

            stopping.add_done_callback(end)
            yield
    except TimeoutError as exc:
        if not scope.expired():
            raise
        raise Unavailable("the server is shutting down: ask again when it is back") from exc
    finally:
        stopping.cancel()
