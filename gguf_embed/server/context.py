"""The context passed to every handler: the service, the options, the metrics, and the dialects with their routes.

To add a dialect, add a folder in `dialects/` with a `Dialect`, and a line in `app.py`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources.abc import Traversable
from typing import Protocol

from aiohttp import web

from gguf_embed.batch.batches import Batches
from gguf_embed.errors import EmbedError, WayOut
from gguf_embed.images.url_allowlist import RemoteHosts
from gguf_embed.metrics import Metrics
from gguf_embed.server.fields.field import Body
from gguf_embed.server.http.body_memory import BodyMemories
from gguf_embed.server.http.request_log import WORK
from gguf_embed.server.shutdown import InFlightRequests
from gguf_embed.tokenization.openai_encodings import TokenIdRule
from gguf_embed.types import (
    NO_LOAD_OPTIONS,
    ClassifyRequest,
    ClassifyResult,
    EmbedRequest,
    EmbedResult,
    Input,
    LoadOptions,
    ModelCheck,
    ModelStatus,
    Priority,
    PullProgress,
    RerankRequest,
    RerankResult,
    ServiceState,
    TextTokens,
)


class Service(Protocol):
    """The use cases behind HTTP. Every method raises only `EmbedError`s.

    Model names are not case-sensitive, and "x" means "x:latest". None stands for the default model.
    """

    async def embed(self, request: EmbedRequest, check: ModelCheck | None = None) -> EmbedResult:
        """`check` is called with the facts about the model before it is loaded, and may raise an `EmbedError`."""
        ...

    async def rerank(self, request: RerankRequest) -> RerankResult:
        """Raises `NotSupported` if the model has no rank head; the message lists models that have one."""
        ...

    async def classify(self, request: ClassifyRequest) -> ClassifyResult:
        """Raises `NotSupported` if the model has no classification head."""
        ...

    async def tokenize(
        self, content: Input, *, model: str | None, add_special: bool, parse_special: bool
    ) -> list[int]: ...

    async def text_tokens(self, texts: Sequence[str], *, model: str | None, add_special: bool) -> list[TextTokens]:
        """Each text's tokens with pieces and offsets. Raises `InvalidRequest` if the texts exceed the offset budget."""
        ...

    async def token_pieces(self, tokens: Sequence[int], *, model: str | None) -> list[bytes]:
        """The bytes of each id. Raises `InvalidRequest` for an id that is not in the vocabulary."""
        ...

    async def detokenize(self, tokens: Sequence[int], *, model: str | None) -> str: ...

    def models(self, *, pulled: bool = False) -> Sequence[ModelStatus]:
        """All served models, the default first; with `pulled`, all pulled ones, too.

        Never blocks, and never loads a model.
        """
        ...

    def resolve(self, name: str | None, *, strict: bool = False) -> ModelStatus:
        """The model that would answer to `name`. Never loads it.

        With `strict`, that is only a model of this name, which may be a pulled one that other routes do not serve.
        Raises `ModelNotFound` for an unknown name if several models are served, if names are strict, or with `strict`;
        `InvalidRequest` for no name if there is no default model.
        """
        ...

    async def load(
        self, name: str, *, keep_alive_s: float | None = None, options: LoadOptions = NO_LOAD_OPTIONS
    ) -> float:
        """Load a model unless it is loaded; returns the seconds this took. The name is strict."""
        ...

    async def unload(self, name: str) -> None:
        """Unload a model as soon as no request uses it. Returns at once. The name is strict."""
        ...

    def pull(self, name: str) -> AsyncIterator[PullProgress]:
        """Download a model, which is then served. The status of the last step is "success"."""
        ...

    async def copy(self, source: str, destination: str) -> None:
        """Serve a model under another name as well."""
        ...

    async def delete(self, name: str) -> None:
        """Delete a pulled model and its file. Raises `PermissionDenied` for a model that was not pulled."""
        ...

    def state(self) -> ServiceState: ...

    def shed(self, within_s: float) -> None:
        """Before a shutdown: requests that cannot be computed within this time fail with `OutOfTime`."""
        ...


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """The server's own settings. Validated where flags are read."""

    version: str
    api_keys: tuple[str, ...] = ()  # empty: open to everyone
    key_classes: Mapping[str, Priority] = field(default_factory=dict)  # of keys that are limited to a class
    request_timeout_s: float | None = None  # None: no limit
    max_body_bytes: int = 64 * 1024 * 1024  # after decompression
    max_body_memory_bytes: int = 2**30  # of all requests together
    max_inputs: int = 2048  # texts in one request
    metrics_enabled: bool = True
    allowed_origins: tuple[str, ...] = ()  # web pages that need no key, see `http/same_site.py`
    rerank_scores: Mapping[str, bool] = field(default_factory=dict)  # by model's name in lower case, or "": raw or not
    ollama_version: str = "0.12.6"
    ollama_port: int = 11434  # on this port, the reply to `GET /` is exactly Ollama's
    token_ids: TokenIdRule = field(default_factory=TokenIdRule)  # how /v1/embeddings reads token ids
    remote_hosts: RemoteHosts = field(default_factory=RemoteHosts)  # hosts from which images may be fetched
    api_prefix: str = ""  # before the path of every route: "/emb"


class Sent(Protocol):
    """What a handler may read of a request whose body is parsed already: one of HTTP, or a line of a batch."""

    @property
    def headers(self) -> Mapping[str, str]: ...


@dataclass(frozen=True, slots=True)
class Route:
    """One line of the route table, which documentation and tests read, too."""

    method: str
    path: str  # aiohttp's pattern
    handler: Handler
    summary: str
    auth_required: bool = True
    timed: bool = True  # the limit on a request's time applies; not to downloads
    answer_line: AnswerLine | None = None  # for routes that lines of batches may be sent to


ShapeError = Callable[[EmbedError, str, int], tuple[int, object]]
"""Turns an error, its message and its status into a dialect's status and JSON body."""


@dataclass(frozen=True, slots=True)
class ErrorFormat:
    """How a dialect formats its errors."""

    shape: ShapeError
    words: Mapping[WayOut, str]  # for the ways out that its clients have


@dataclass(frozen=True, slots=True, eq=False)
class Dialect:
    """One of the APIs that clients use."""

    name: str  # for people: "OpenAI"
    routes: tuple[Route, ...]
    errors: ErrorFormat
    error_schema: str  # the name of its errors' schema in `openapi`, or in the shared file
    openapi: tuple[Traversable, ...]  # TOML files that describe its routes, see `docs/openapi.py`
    bodies: tuple[Body, ...] = ()  # its requests
    path_prefix: str = ""  # unknown paths with this prefix get its errors; "": none


@dataclass(frozen=True, slots=True)
class ServerContext:
    """Everything that the handlers of one server share. Created once, by `build_app`."""

    service: Service
    options: ServerOptions
    metrics: Metrics
    dialects: tuple[Dialect, ...]
    started_unix_s: int
    in_flight: InFlightRequests = field(default_factory=InFlightRequests)
    body_memory: BodyMemories = field(kw_only=True)

    batches: Batches | None = field(default=None, kw_only=True)  # None: switched off
    field_names: frozenset[str] = field(default=frozenset(), kw_only=True)  # all that any request may have

    @property
    def routes(self) -> tuple[Route, ...]:
        """The routes of all dialects."""
        return tuple(route for dialect in self.dialects for route in dialect.routes)

    async def embed(self, request: EmbedRequest, check: ModelCheck | None = None) -> EmbedResult:
        """Embed with the service, and count the result."""
        result = await self.service.embed(request, check)
        self.metrics.observe_texts(
            result.model.name,
            len(result.output) - len(result.failures),
            result.usage.prompt_tokens,
            result.timings,
            result.truncated,
        )
        if result.windowed or result.failures:
            self.metrics.observe_exceptions(len(result.windowed), result.failures)
        if (work := WORK.get()) is not None:
            work.add(result.model.name, len(result.output), result.usage.prompt_tokens)
        return result

    async def rerank(self, request: RerankRequest) -> RerankResult:
        """Rerank with the service, and count the result: each document with the query is one text."""
        result = await self.service.rerank(request)
        self._count(result, len(result.scores))
        return result

    async def classify(self, request: ClassifyRequest) -> ClassifyResult:
        """Classify with the service, and count the result: a pair is one text."""
        result = await self.service.classify(request)
        self._count(result, len(result.numbers))
        return result

    def _count(self, result: RerankResult | ClassifyResult, n_texts: int) -> None:
        model, n_tokens = result.model.name, result.usage.prompt_tokens
        self.metrics.observe_texts(model, n_texts, n_tokens, result.timings, result.truncated)
        if (work := WORK.get()) is not None:
            work.add(model, n_texts, n_tokens)


Handler = Callable[[ServerContext, web.Request], Awaitable[web.StreamResponse]]
AnswerLine = Callable[[ServerContext, Sent, Mapping[str, object]], Awaitable[web.Response]]
"""Answers a body that is parsed already. Raises `EmbedError`s."""

SERVER_CONTEXT = web.AppKey("context", ServerContext)
ERROR_FORMAT = web.RequestKey("error_format", ErrorFormat)
"""Set by a handler if a body asks for another shape of errors than its route's dialect has."""
