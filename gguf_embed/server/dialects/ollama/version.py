"""Ollama's `/api/version`, and its routes that this server refuses."""

from __future__ import annotations

import re

import orjson
from aiohttp import web

from gguf_embed.errors import NotSupported
from gguf_embed.server.context import ServerContext
from gguf_embed.server.http.body import json_response


async def version(context: ServerContext, request: web.Request) -> web.StreamResponse:
    """`GET /api/version`: that of the Ollama whose API this is, which clients check, and ours beside it."""
    options = context.options
    reply = {"version": plain_version(options.ollama_version), "gguf_embed_version": options.version}
    return json_response(orjson.dumps(reply))


def plain_version(version: str) -> str:
    """ "1.2.3" from "1.2.3.dev4+local": clients split it at the dots and expect numbers (Open WebUI)."""
    numbers = re.match(r"\d+(\.\d+){0,2}", version)
    parts = numbers[0].split(".") if numbers else []
    return ".".join((*parts, *("0" * (3 - len(parts)))))


async def refuse(context: ServerContext, request: web.Request) -> web.StreamResponse:
    """Refuses routes that need a generative model, or Ollama's own registry."""
    raise NotSupported(
        f"{request.path} is not supported, because this server embeds text and does not generate it: "
        "use POST /api/embed, or POST /api/pull to add a model"
    )
