"""`GET /`: the page in a browser, a list of the routes elsewhere, Ollama's sentence on Ollama's port."""

from __future__ import annotations

from aiohttp import web

from gguf_embed.server.context import ServerContext
from gguf_embed.server.docs.openapi import shown_path
from gguf_embed.server.docs.page.page import VARY, page, wants_page
from gguf_embed.types import ModelInfo, ModelStatus, Pooling

GREETING = "Ollama is running"


async def root(context: ServerContext, request: web.Request) -> web.StreamResponse:
    """`GET /`: in a browser the page; else on Ollama's port its sentence alone, elsewhere the index with it at the end.

    Clients look there before anything else. Many search the text for the sentence, some compare the whole
    (hass-ollama-conversation, Reins).
    """
    if wants_page(request.headers.get("Accept", "")):
        return await page(context, request)
    address = request.get_extra_info("sockname")
    if isinstance(address, tuple) and address[1] == context.options.ollama_port:
        return web.Response(text=GREETING, headers=VARY)
    listed = await index(context, request)
    listed.text = f"{listed.text}\nfor Ollama's clients: {GREETING}\n"
    listed.headers.update(VARY)
    return listed


async def index(context: ServerContext, request: web.Request) -> web.Response:
    """`GET /`: what is here, for a person with a browser or curl."""
    served = context.service.models()
    methods = max(len(route.method) for route in context.routes)
    paths = max(len(shown_path(route)) for route in context.routes)
    lines = [
        f"gguf-embed {context.options.version} serves",
        *map(_index_line, served),
        "",
        *(f"{route.method:{methods}}  {shown_path(route):{paths}}  {route.summary}" for route in context.routes),
        "",
        example(f"{request.scheme}://{request.host}", served[0].info if served else None),
        "",
    ]
    # a Host header that is not UTF-8 comes as surrogates
    page = "\n".join(lines).encode("utf-8", "replace")
    return web.Response(body=page, headers={"Content-Type": "text/plain; charset=utf-8"})


def example(url: str, info: ModelInfo | None, *, named: bool = False, headers: str = "") -> str:
    """A line for a terminal that asks this model, None: one yet to come; `named`: it must be asked by name."""
    model = f'"model": "{info.name if info else "NAME"}", ' if named else ""
    path, body = "/v1/embeddings", '"input": "hello"'
    if info is not None and info.pooling is Pooling.RANK:
        path, body = "/rerank", '"query": "hello", "documents": ["hello world", "a red dog"]'
    elif info is not None and info.pooling is Pooling.NONE:
        path = "/embedding"
    return f"curl {url}{path} -H 'Content-Type: application/json'{headers} -d '{{{model}{body}}}'"


def _index_line(status: ModelStatus) -> str:
    info = status.info
    rank = "reranker, " if info.n_scores else ""
    return (
        f"  {info.name} ({rank}{info.n_embd} dimensions, pooling {info.pooling.value}, "
        f"at most {info.max_input_tokens} tokens per text, {status.state})"
    )
