"""Ollama's routes that change which models are served: pull, copy, delete."""

from __future__ import annotations

import orjson
from aiohttp import web

from gguf_embed.server.context import ServerContext
from gguf_embed.server.dialects.ollama.model_names import DESTINATION, NAME, SOURCE, missing_as, required_name
from gguf_embed.server.dialects.ollama.stream import stream_lines, watching
from gguf_embed.server.fields.field import Body, Flag
from gguf_embed.server.http.body import json_response, read_json_object
from gguf_embed.types import PullProgress

STREAM = Flag("stream", "`false`: one object at the end.", default="`true`")
REQUEST = Body("OllamaPullRequest", (NAME, STREAM))


async def pull(context: ServerContext, request: web.Request) -> web.StreamResponse:
    """`POST /api/pull`: a line of JSON for each step as it happens; with `"stream": false`, the last step only.

    When a client disconnects, the iterator of steps is closed, and the download stops with its last watcher. It also
    stops when the server shuts down. A partial file is kept for the next attempt.
    """
    body = await read_json_object(context, request)
    name = required_name(body, NAME)
    is_stream = STREAM.read(body) is not False
    async with watching(context, context.service.pull(name)) as steps:
        if is_stream:
            return await stream_lines(context, request, steps, format_step)
        async for _step in steps:
            pass
    return json_response(format_step(PullProgress("success")))


def format_step(step: PullProgress) -> bytes:
    """One step, without the fields that it does not have."""
    line: dict[str, object] = {"status": step.status}
    if step.digest:
        line["digest"] = step.digest
    if step.total_bytes:
        line["total"] = step.total_bytes
    if step.completed_bytes:
        line["completed"] = step.completed_bytes
    return orjson.dumps(line)


async def copy(context: ServerContext, request: web.Request) -> web.StreamResponse:
    """`POST /api/copy`: give a model another name. Returns 200 without a body."""
    body = await read_json_object(context, request)
    source, destination = required_name(body, SOURCE), required_name(body, DESTINATION)
    with missing_as('model "{}" not found', source):
        await context.service.copy(source, destination)
    return web.Response()


async def delete(context: ServerContext, request: web.Request) -> web.StreamResponse:
    """`DELETE /api/delete`: delete a pulled model. Returns 200 without a body."""
    name = required_name(await read_json_object(context, request), NAME)
    with missing_as("model '{}' not found", name):
        await context.service.delete(name)
    return web.Response()
