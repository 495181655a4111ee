"""How Ollama presents itself: its root page and version; and what it can that this server cannot."""

from __future__ import annotations

import re

import orjson
from aiohttp import web

from gguf_embed.errors import NotSupported
from gguf_embed.server import ops
from gguf_embed.server.body import json_response
from gguf_embed.server.door import Door
from gguf_embed.server.page.page import VARY, page, wants_page

GREETING = "Ollama is running"


async def root(door: Door, request: web.Request) -> web.StreamResponse:
    """`GET /`: in a browser the page; else on Ollama's port its sentence alone, elsewhere the index with it at the end.

    Clients look there before anything else. Many search the text for the sentence, some compare the whole
    (hass-ollama-conversation, Reins).
    """
    if wants_page(request.headers.get("Accept", "")):
        return await page(door, request)
    address = request.get_extra_info("sockname")
    if isinstance(address, tuple) and address[1] == door.options.ollama_port:
        return web.Response(text=GREETING, headers=VARY)
    index = await ops.index(door, request)
    if isinstance(index, web.Response) and index.content_type == "text/plain":
        index.text = f"{index.text}\nfor Ollama's clients: {GREETING}\n"
        index.headers.update(VARY)
    return index


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
