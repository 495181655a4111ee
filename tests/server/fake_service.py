"""A service without an engine, and a real HTTP server round it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import aiohttp
import numpy as np
from aiohttp import web

from gguf_embed.errors import InputTooLong, InvalidRequest, ModelNotFound
from gguf_embed.metrics import Metrics
from gguf_embed.server.app import build_app
from gguf_embed.server.door import ServerOptions
from gguf_embed.server.run import ListenAddress, serve
from gguf_embed.types import (
    EmbedRequest,
    EmbedResult,
    ModelInfo,
    Pooling,
    Prompt,
    ServiceState,
    Timings,
    Truncation,
    Usage,
)

MODEL = ModelInfo(
    name="tiny",
    aliases=("tiny-alias",),
    path=Path("/secret/place/tiny.gguf"),
    architecture="bert",
    description="bert 22M F16",
    file_type="F16",
    weights_type="BF16",
    pooling=Pooling.MEAN,
    embd_normalize=2,
    n_embd=8,
    n_vocab=1000,
    n_ctx_train=16,
    n_ctx=64,
    max_input_tokens=16,
    n_params=22_000_000,
    size_bytes=45_000_000,
    vocab_type=3,
    bos_token="[CLS]",
    eos_token="[SEP]",
    tokenizer="exact",
    causal=False,
)


class FakeService:
    """Vectors that depend on the input alone; one token per character plus two, or the ids as given."""

    def __init__(self, info: ModelInfo = MODEL, strict_model: bool = False) -> None:
        self.info = info
        self.strict_model = strict_model
        self.status = ServiceState("ok", n_workers=2, n_threads=1)
        self.failure: BaseException | None = None
        self.requests: list[EmbedRequest] = []
        self.entered = asyncio.Event()  # set when a request is inside embed
        self.cancelled = asyncio.Event()  # set when one was cancelled there
        self.gate = asyncio.Event()  # requests wait for it
        self.gate.set()

    async def embed(self, request: EmbedRequest) -> EmbedResult:
        info = self.resolve(request.model)
        self.requests.append(request)
        self.entered.set()
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        if self.failure is not None:
            raise self.failure
        if request.dimensions is not None and request.dimensions > info.n_embd:
            raise InvalidRequest(f"dimensions {request.dimensions}: the model has {info.n_embd}", "dimensions")
        return _embed(request, info)

    async def tokenize(self, content: Prompt, *, add_special: bool, parse_special: bool) -> list[int]:
        parts = (content,) if isinstance(content, str) else content
        tokens = [token for part in parts for token in ([part] if isinstance(part, int) else part.encode())]
        return [101, *tokens, 102] if add_special else tokens

    def token_bytes(self, token: int) -> bytes:
        if token > 255:
            raise InvalidRequest(f"token {token} is not in the vocabulary", "tokens")
        return bytes([token])

    async def detokenize(self, tokens: Sequence[int]) -> str:
        return b"".join(self.token_bytes(token) for token in tokens).decode("utf-8", "replace")

    def model(self) -> ModelInfo:
        return self.info

    def resolve(self, name: str | None) -> ModelInfo:
        if self.strict_model and name not in (None, self.info.name, *self.info.aliases):
            raise ModelNotFound(f"model {name!r} is not served here; {self.info.name!r} is")
        return self.info

    def state(self) -> ServiceState:
        return self.status


def _embed(request: EmbedRequest, info: ModelInfo) -> EmbedResult:
    pooling = request.pooling or info.pooling
    rows, offsets, cuts, n_read = [], [0], [], 0
    for index, prompt in enumerate(request.inputs):
        n_tokens = len(prompt) + 2 if isinstance(prompt, str) else len(prompt)
        n_kept = min(n_tokens, info.max_input_tokens)
        if n_kept < n_tokens:
            if not request.truncate:
                raise InputTooLong(index, n_tokens, info.max_input_tokens)
            cuts.append(Truncation(index, n_tokens, n_kept))
        rows.extend(vector_of(prompt, row, info.n_embd) for row in range(n_kept if pooling is Pooling.NONE else 1))
        offsets.append(len(rows))
        n_read += n_kept
    vectors = np.stack(rows)[:, : request.dimensions]
    timings = Timings(0.001, 0.002, 0.003)
    return EmbedResult(info, pooling, vectors, tuple(offsets), Usage(n_read), tuple(cuts), timings)


def vector_of(prompt: Prompt, row: int = 0, n_embd: int = 8) -> np.ndarray:
    """The fake's vector, float32[n_embd], of length 1."""
    seed = sum(map(ord, prompt)) if isinstance(prompt, str) else sum(part for part in prompt if isinstance(part, int))
    vector = np.random.default_rng([seed, row]).standard_normal(n_embd).astype(np.float32)
    return vector / np.linalg.norm(vector)


@dataclass
class Running:
    """A served fake: everything a test may want to touch."""

    url: str
    app: web.Application
    service: FakeService
    metrics: Metrics
    http: aiohttp.ClientSession
    stop: asyncio.Event
    done: asyncio.Task[None]

    async def post(self, path: str, body: object, **kwargs: object) -> Reply:
        """POST JSON, or bytes as they are."""
        sent = {"data": body} if isinstance(body, bytes) else {"json": body}
        return await self.request("POST", path, **sent, **kwargs)

    async def request(self, method: str, path: str, **kwargs: object) -> Reply:
        async with self.http.request(method, self.url + path, **kwargs) as response:
            raw = await response.read()
            is_json = response.content_type == "application/json" and raw
            return Reply(response.status, response.headers, raw, await response.json() if is_json else None)


@dataclass
class Reply:
    status: int
    headers: Mapping[str, str]
    raw: bytes
    json: object


@asynccontextmanager
async def serving(service: FakeService | None = None, **options: object) -> AsyncIterator[Running]:
    """Serve on a free loopback port through the product's own `serve`."""
    service = service or FakeService()
    metrics = Metrics()
    app = build_app(service, ServerOptions(**{"version": "1.2.3", **options}), metrics)
    stop = asyncio.Event()
    ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    done = asyncio.create_task(serve(app, ListenAddress(port=0), stop, ready.set_result))
    url = await ready
    try:
        async with aiohttp.ClientSession() as http:
            yield Running(url, app, service, metrics, http, stop, done)
    finally:
        service.gate.set()
        stop.set()
        await done


def failing(error: BaseException) -> FakeService:
    """A service whose `embed` raises `error`."""
    service = FakeService()
    service.failure = error
    return service


def with_pooling(pooling: Pooling) -> FakeService:
    """A service started with another pooling."""
    return FakeService(replace(MODEL, pooling=pooling))
