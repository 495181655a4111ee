"""`GET /`: the page for browsers, a list of the routes for other clients, Ollama's greeting on Ollama's port."""

from __future__ import annotations

from aiohttp import web

from gguf_embed.server.context import ServerContext
from gguf_embed.server.docs.openapi import shown_path
from gguf_embed.server.docs.page.page import VARY, page, wants_page
from gguf_embed.types import SCORES, SPARSE, TOKENS, ModelInfo, ModelStatus, Pooling

GREETING = "Ollama is running"


async def root(context: ServerContext, request: web.Request) -> web.StreamResponse:
    """`GET /`: the page for browsers. For others: the greeting alone on Ollama's port, else the index ending with it.

    Ollama's clients probe this route first. Many search the text for the greeting, some compare the whole text
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
    """`GET /`: the served models and the routes, as plain text for people."""
    statuses = context.service.models()
    prefix = context.options.api_prefix
    methods = max(len(route.method) for route in context.routes)
    paths = max(len(prefix + shown_path(route)) for route in context.routes)
    lines = [
        f"gguf-embed {context.options.version} serves",
        *map(_index_line, statuses),
        "",
        *(
            f"{route.method:{methods}}  {prefix + shown_path(route):{paths}}  {route.summary}"
            for route in context.routes
        ),
        "",
        example(f"{request.scheme}://{request.host}{prefix}", statuses[0].info if statuses else None),
        "",
    ]
    # a Host header that is not UTF-8 contains surrogates
    page = "\n".join(lines).encode("utf-8", "replace")
    return web.Response(body=page, headers={"Content-Type": "text/plain; charset=utf-8"})


def example(url: str, info: ModelInfo | None, *, named: bool = False, headers: str = "") -> str:
    """A shell command with a request for this model; None: there is no model yet. `named`: include the model's name."""
    model = f'"model": "{info.name if info else "NAME"}", ' if named else ""
    path, body = "/v1/embeddings", '"input": "hello"'
    if info is not None and info.output.kind == SCORES:
        path, body = "/rerank", '"query": "hello", "documents": ["hi", "a dog"]'
    elif info is not None and info.output.kind == TOKENS and info.head_outputs == (SPARSE,):
        path, body = "/embed_sparse", '"inputs": "hello"'
    elif info is not None and info.pooling is Pooling.NONE:
        path = "/embedding"
    return f"curl -w '\\n' {url}{path}{headers} -d '{{{model}{body}}}'"


def _index_line(status: ModelStatus) -> str:
    info = status.info
    rank = "reranker, " if info.n_scores or info.output.kind == SCORES else ""
    vectors = f"{info.n_embd} dimensions, pooling {info.pooling.value}" if info.n_embd else "sparse vectors"
    return f"  {info.name} ({rank}{vectors}, at most {info.max_input_tokens} tokens per text, {status.state})"
