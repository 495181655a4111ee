"""How Ollama presents itself: its root page and version; and what it can that this server cannot."""

from __future__ import annotations

import re

import orjson
from aiohttp import web

from gguf_embed.errors import NotSupported
from gguf_embed.server import ops
from gguf_embed.server.body import json_response
from gguf_embed.server.door import Door

GREETING = "Ollama is running"


async def root(door: Door, request: web.Request) -> web.StreamResponse:
    """`GET /`: on Ollama's port exactly its sentence, elsewhere the index with that sentence at its end.

    Clients look there before anything else. Many search the text for the sentence, some compare the whole
    (hass-ollama-conversation, Reins). A browser gets the index on every port.
    """
    address = request.get_extra_info("sockname")
    is_ollama_port = isinstance(address, tuple) and address[1] == door.options.ollama_port
    if is_ollama_port and "text/html" not in request.headers.get("Accept", ""):
        return web.Response(text=GREETING)
    page = await ops.index(door, request)
    if isinstance(page, web.Response) and page.content_type == "text/plain":
        page.text = f"{page.text}\nfor Ollama's clients: {GREETING}\n"
    return page


async def version(door: Door, request: web.Request) -> web.StreamResponse:
    """`GET /api/version`: this server's, not Ollama's."""
    return json_response(orjson.dumps({"version": plain_version(door.options.version)}))


def plain_version(version: str) -> str:
    """ "1.2.3" of "1.2.3.dev4+local": clients split it at the dots and expect numbers (Open WebUI)."""
    numbers = re.match(r"\d+(\.\d+){0,2}", version)
    parts = numbers[0].split(".") if numbers else []
    return ".".join((*parts, *("0" * (3 - len(parts)))))


async def refuse(door: Door, request: web.Request) -> web.StreamResponse:
    """What needs a model that writes text, or Ollama's own registry."""
    raise NotSupported(
        f"{request.path} is not supported: this server embeds texts and generates none; "
        "use POST /api/embed, or POST /api/pull to add a model"
    )
