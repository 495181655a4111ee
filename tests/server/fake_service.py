"""A service without an engine, and a real HTTP server around it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import aiohttp
import numpy as np
from aiohttp import web

from gguf_embed.batch.batches import Batches
from gguf_embed.batch.records import BatchLimits
from gguf_embed.errors import InputTooLong, InvalidRequest, ModelNotFound
from gguf_embed.metrics import Metrics
from gguf_embed.server.app import build_app
from gguf_embed.server.context import ServerOptions
from gguf_embed.server.listen import ListenAddress
from gguf_embed.server.run import serve_all
from gguf_embed.types import (
    NO_LOAD_OPTIONS,
    TOKENS,
    AppliedPrompt,
    ClassifyRequest,
    ClassifyResult,
    EmbedRequest,
    EmbedResult,
    Input,
    LoadOptions,
    ModelInfo,
    ModelStatus,
    Pooling,
    PullProgress,
    RerankRequest,
    RerankResult,
    ScoreKind,
    ServiceState,
    TextTokens,
    Timings,
    TokenInfo,
    Truncation,
    Usage,
)
from gguf_embed.vectors import Rows

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
    """Vectors that depend on the input alone; one token per character plus two, or the ids as given.

    Serves `info`, loaded, and `others`, not loaded; `load`, `unload`, `pull`, `copy` and `delete` change `statuses`.
    """

    def __init__(self, info: ModelInfo = MODEL, strict_model: bool = False, others: Sequence[ModelInfo] = ()) -> None:
        self.strict_model = strict_model
        self.statuses = [status_of(info, state="loaded", memory_bytes=100), *map(status_of, others)]
        self.status = ServiceState("ok", n_workers=2, n_threads=1)
        self.failure: BaseException | None = None
        self.requests: list[EmbedRequest] = []
        self.reranks: list[RerankRequest] = []
        self.loads: list[tuple[str, float | None, LoadOptions]] = []
        self.pulls: list[str] = []
        self.pull_steps: list[PullProgress | BaseException] = [PullProgress("success")]
        self.entered = asyncio.Event()  # set when a request is inside embed, or a pull before its last step
        self.cancelled = asyncio.Event()  # set when one was cancelled there
        self.gate = asyncio.Event()  # requests wait for it, and the last step of a pull
        self.gate.set()

    @property
    def info(self) -> ModelInfo:
        """The first model's."""
        return self.statuses[0].info

    @info.setter
    def info(self, info: ModelInfo) -> None:
        self.statuses[0] = replace(self.statuses[0], info=info)

    async def embed(self, request: EmbedRequest, check: Callable[[ModelInfo], None] | None = None) -> EmbedResult:
        info = self.resolve(request.model, strict=request.strict_name).info
        if check is not None:
            check(info)
        self.requests.append(request)
        await self._pass_gate()
        if self.failure is not None:
            raise self.failure
        if request.dimensions is not None and request.dimensions > info.n_embd:
            raise InvalidRequest(f"dimensions {request.dimensions}: the model has {info.n_embd}", "dimensions")
        return _embed(request, info)

    async def rerank(self, request: RerankRequest) -> RerankResult:
        """A document's score is the number of words that it shares with the query, less 1."""
        info = self.resolve(request.model).info
        self.reranks.append(request)
        await self._pass_gate()
        if self.failure is not None:
            raise self.failure
        words = set(request.query.split())
        scores = np.array([len(words & set(document.split())) - 1 for document in request.documents], np.float32)
        lengths = [len(request.query) + len(document) + 3 for document in request.documents]
        limit = info.max_input_tokens
        cuts = tuple(Truncation(i, n, limit) for i, n in enumerate(lengths) if n > limit and request.truncate)
        usage = Usage(sum(min(n, limit) for n in lengths))
        return RerankResult(info, scores, ScoreKind.LOGIT, usage, cuts, Timings(0.001, 0.002, 0.003))

    async def classify(self, request: ClassifyRequest) -> ClassifyResult:
        """Two labels: how many characters a text has, and 1."""
        info = self.resolve(request.model).info
        await self._pass_gate()
        lengths = [sum(map(len, text)) if isinstance(text, tuple) else len(text) for text in request.texts]
        numbers = np.array([[length, 1] for length in lengths], np.float32)
        return ClassifyResult(info, numbers, ("long", "short"), Usage(sum(lengths)))

    async def _pass_gate(self) -> None:
        self.entered.set()
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise

    async def tokenize(self, content: Input, *, model: str | None, add_special: bool, parse_special: bool) -> list[int]:
        self.resolve(model)
        parts = (content,) if isinstance(content, str) else content
        tokens = [token for part in parts for token in ([part] if isinstance(part, int) else part.encode())]
        return [101, *tokens, 102] if add_special else tokens

    async def text_tokens(self, texts: Sequence[str], *, model: str | None, add_special: bool) -> list[TextTokens]:
        """One token per byte. A token that is a whole character has offsets."""
        return [_text_tokens(text, [101], [102]) if add_special else _text_tokens(text, [], []) for text in texts]

    async def token_pieces(self, tokens: Sequence[int], *, model: str | None) -> list[bytes]:
        self.resolve(model)
        for token in tokens:
            if token > 255:
                raise InvalidRequest(f"token {token} is not in the vocabulary", "tokens")
        return [bytes([token]) for token in tokens]

    async def detokenize(self, tokens: Sequence[int], *, model: str | None) -> str:
        return b"".join(await self.token_pieces(tokens, model=model)).decode("utf-8", "replace")

    def models(self, *, pulled: bool = False) -> Sequence[ModelStatus]:
        return tuple(self.statuses)

    def resolve(self, name: str | None, *, strict: bool = False) -> ModelStatus:
        if name is None:
            return self.statuses[0]
        for status in self.statuses:
            if _key(name) in map(_key, (status.info.name, *status.info.aliases)):
                return status
        if strict or self.strict_model or len(self.statuses) != 1:
            raise ModelNotFound(f"model {name!r} is not served here")
        return self.statuses[0]

    async def load(
        self, name: str, *, keep_alive_s: float | None = None, options: LoadOptions = NO_LOAD_OPTIONS
    ) -> float:
        self._change(name, state="loaded", memory_bytes=100)
        self.loads.append((name, keep_alive_s, options))
        return 0.25

    async def unload(self, name: str) -> None:
        self._change(name, state="unloaded", memory_bytes=0)

    def _change(self, name: str, **changes: object) -> None:
        status = self.resolve(name, strict=True)
        self.statuses[self.statuses.index(status)] = replace(status, **changes)

    async def pull(self, name: str) -> AsyncGenerator[PullProgress, None]:
        """The steps of `pull_steps`; an error among them is raised there."""
        self.pulls.append(name)
        for index, step in enumerate(self.pull_steps):
            if index == len(self.pull_steps) - 1:
                await self._pass_gate()
            if isinstance(step, BaseException):
                raise step
            yield step
        self.statuses.append(status_of(replace(MODEL, name=name, aliases=())))

    async def copy(self, source: str, destination: str) -> None:
        info = self.resolve(source, strict=True).info
        self._change(source, info=replace(info, aliases=(*info.aliases, destination)))

    async def delete(self, name: str) -> None:
        self.statuses.remove(self.resolve(name, strict=True))

    def shed(self, within_s: float) -> None:
        """Nothing waits here."""

    def state(self) -> ServiceState:
        return self.status


def _key(name: str) -> str:
    return name.lower().removesuffix(":latest")


def status_of(info: ModelInfo, **changes: object) -> ModelStatus:
    """A model that is not loaded; its digest is made of its name."""
    digest = info.name.encode().hex().ljust(64, "0")[:64]
    return replace(ModelStatus(info, digest, modified_unix_s=1_700_000_000.5, state="unloaded"), **changes)


def _embed(request: EmbedRequest, info: ModelInfo) -> EmbedResult:
    output = request.output or info.output
    rows, offsets, cuts, n_read = [], [0], [], 0
    for index, prompt in enumerate(request.inputs):
        n_tokens = len(prompt) + 2 if isinstance(prompt, str) else len(prompt)
        n_kept = min(n_tokens, info.max_input_tokens)
        if n_kept < n_tokens:
            if not request.truncate:
                raise InputTooLong(index, n_tokens, info.max_input_tokens)
            cuts.append(Truncation(index, n_tokens, n_kept))
        rows.extend(vector_of(prompt, row, info.n_embd) for row in range(n_kept if output.kind == TOKENS else 1))
        offsets.append(len(rows))
        n_read += n_kept
    vectors = np.stack(rows)[:, : request.dimensions]
    timings = Timings(0.001, 0.002, 0.003, load_s=0.004)
    applied = None
    if request.prompt is not None:
        name, text = request.prompt.name, request.prompt.text
        applied = AppliedPrompt(name, text if text is not None else info.prompts[name or ""])
    rows = Rows(output.kind, vectors, tuple(offsets))
    return EmbedResult(info, rows, Usage(n_read), tuple(cuts), timings, applied)


def _text_tokens(text: str, opening: list[int], closing: list[int]) -> TextTokens:
    own = [*text.encode()]
    spans = [span for at, character in enumerate(text) for span in _spans(at, character)]
    pieces = [bytes([token]) for token in (*opening, *own, *closing)]
    offsets = [*[None] * len(opening), *spans, *[None] * len(closing)]
    return TextTokens(
        TokenInfo([*opening, *own, *closing], pieces, offsets), range(len(opening), len(opening) + len(own))
    )


def _spans(at: int, character: str) -> list[tuple[int, int] | None]:
    n_bytes = len(character.encode())
    return [(at, at + 1)] if n_bytes == 1 else [None] * n_bytes


def vector_of(prompt: Input, row: int = 0, n_embd: int = 8) -> np.ndarray:
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
async def serving(
    service: FakeService | None = None, *, tracing: object = None, batches: Path | None = None, **options: object
) -> AsyncIterator[Running]:
    """Serve on a free loopback port through the product's own `serve_all`. `batches`: their folder; None: off."""
    service = service or FakeService()
    metrics = Metrics()
    app = build_app(
        service,
        ServerOptions(**{"version": "1.2.3", **options}),
        metrics,
        tracing=tracing,
        batches=batches and Batches(batches, BatchLimits()),
    )
    stop = asyncio.Event()
    ready: asyncio.Future[Sequence[str]] = asyncio.get_running_loop().create_future()
    done = asyncio.create_task(serve_all(app, [ListenAddress(port=0)], stop, ready.set_result))
    (url,) = await ready
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


def holding() -> FakeService:
    """A service whose requests wait until its gate is opened."""
    service = FakeService()
    service.gate.clear()
    return service


def with_pooling(pooling: Pooling) -> FakeService:
    """A service started with another pooling."""
    return FakeService(replace(MODEL, pooling=pooling))
