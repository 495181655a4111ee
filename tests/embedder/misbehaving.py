"""A server that speaks OpenAI's embeddings API and misbehaves as a script says."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import numpy as np
from aiohttp import web

from gguf_embed.embedder.loop_thread import LoopThread

Act = Callable[[web.Request, dict[str, Any]], Awaitable[web.StreamResponse]]

N_DIMS = 8


def vector_of(text: str, seed: str = "") -> np.ndarray:
    """float32[8] of length 1 that depends on the text alone."""
    numbers = np.frombuffer(blake2b((seed + text).encode(), digest_size=N_DIMS).digest(), np.uint8).astype(np.float32)
    numbers += 1.0
    return numbers / np.linalg.norm(numbers)


@dataclass
class Sent:
    """One request for vectors that the server got."""

    at_s: float
    texts: list[str]
    headers: dict[str, str]
    body: dict[str, Any]


@dataclass
class Misbehaving:
    """`script`: what the first requests get; those after them are answered, unless `refuse` has something for them."""

    script: list[Act] = field(default_factory=list)
    refuse: Callable[[list[str]], Act | None] = lambda texts: None
    routes: dict[str, Any] = field(default_factory=dict)  # path → JSON of GET requests, and of POST to other routes
    seed: str = ""
    pause_s: float = 0.0  # before each answer
    port: int = 0
    sent: list[Sent] = field(default_factory=list)
    n_running: int = 0
    most_running: int = 0
    url: str = ""

    def start(self) -> Misbehaving:
        self._loop = LoopThread("Misbehaving", self._stop)
        self._loop.run(self._start)
        return self

    def stop(self) -> None:
        self._loop.begin_close(cancel=True)
        self._loop.close()

    async def _start(self) -> None:
        app = web.Application()
        app.router.add_post("/v1/embeddings", self._embeddings)
        app.router.add_route("*", "/{path:.*}", self._other)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        self.port = self._runner.addresses[0][1]
        self.url = f"http://127.0.0.1:{self.port}"

    async def _stop(self) -> None:
        await self._runner.cleanup()

    async def _other(self, request: web.Request) -> web.StreamResponse:
        if request.path not in self.routes:
            raise web.HTTPNotFound(text="no such route")
        return web.json_response(self.routes[request.path])

    async def _embeddings(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        texts = body["input"]
        self.sent.append(Sent(time.monotonic(), texts, dict(request.headers), body))
        self.n_running += 1
        self.most_running = max(self.most_running, self.n_running)
        try:
            act = self.script.pop(0) if self.script else self.refuse(texts) or self.answer
            return await act(request, body)
        finally:
            self.n_running -= 1

    async def answer(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        await asyncio.sleep(self.pause_s)
        return web.json_response(self.reply(body["input"]))

    def reply(self, texts: list[str], *, as_numbers: bool = False) -> dict[str, Any]:
        """In reverse order: the index counts."""
        vectors = [vector_of(text, self.seed) for text in texts]
        data = [
            {
                "index": index,
                "embedding": row.tolist() if as_numbers else base64.b64encode(row.astype("<f4").tobytes()).decode(),
            }
            for index, row in enumerate(vectors)
        ]
        return {"data": data[::-1], "model": "fake-8", "usage": {"prompt_tokens": 3 * len(texts)}}

    def embedded_texts(self) -> list[str]:
        return [text for sent in self.sent for text in sent.texts]


def status(code: int, message: str = "no", **headers: str) -> Act:
    """An error in OpenAI's shape. `headers`: with underscores for hyphens."""

    async def act(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.json_response({"error": {"message": message}}, status=code, headers=named)

    return act


def raw(content: bytes) -> Act:
    """200, with anything as its body."""

    async def act(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return web.Response(body=content, content_type="application/json")

    return act


def changed(change: Callable[[dict[str, Any]], object], as_numbers: bool = False) -> Act:
    """The right answer, with a change."""

    async def act(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        reply = Misbehaving().reply(body["input"], as_numbers=as_numbers)
        change(reply)
        return web.Response(body=json.dumps(reply).encode(), content_type="application/json")

    return act


async def cut_off(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    """Half of the announced bytes, then the connection is closed."""
    response = web.StreamResponse(headers={"Content-Length": "1000"})
    await response.prepare(request)
    await response.write(b'{"data": [')
    assert request.transport is not None
    request.transport.close()
    return response


HTML = raw(b"<html><body>502 Bad Gateway</body></html>")
TRUNCATED_JSON = raw(b'{"data": [{"index": 0, "embedding": "AAAA')
