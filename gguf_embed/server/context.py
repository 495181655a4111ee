"""What every handler is given: the service, the options, the metrics, and the dialects with their routes.

A new dialect is a folder in `dialects/` with a `Dialect`, and its line in `app.py`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from importlib.resources.abc import Traversable
from typing import Protocol

from aiohttp import web

from gguf_embed.images.url_allowlist import RemoteHosts
from gguf_embed.metrics import Metrics
from gguf_embed.server.http.errors import ErrorFormat
from gguf_embed.server.shutdown import InFlightRequests
from gguf_embed.tokenization.openai_encodings import TokenIdRule
from gguf_embed.types import (
    NO_LOAD_OPTIONS,
    EmbedRequest,
    EmbedResult,
    Input,
    LoadOptions,
    ModelInfo,
    ModelStatus,
    PullProgress,
    RerankRequest,
    RerankResult,
    ServiceState,
    TextTokens,
)

ModelCheck = Callable[[ModelInfo], None]


class Service(Protocol):
    """The use cases behind HTTP. Every method raises `EmbedError`s only.

    A model's name is matched without case, "x" means "x:latest"; None is the one that a request without a name means.
    """

    async def embed(self, request: EmbedRequest, check: ModelCheck | None = None) -> EmbedResult:
        """`check` is given what is known of the model, before it is loaded; what it raises is the answer."""
        ...

    async def rerank(self, request: RerankRequest) -> RerankResult:
        """Raises `NotSupported` where the model has no rank head, and says which models could."""
        ...

    async def tokenize(
        self, content: Input, *, model: str | None, add_special: bool, parse_special: bool
    ) -> list[int]: ...

    async def text_tokens(self, texts: Sequence[str], *, model: str | None, add_special: bool) -> list[TextTokens]:
        """Each text's tokens with their pieces and offsets. Raises `InvalidRequest` for more text than is aligned."""
        ...

    async def token_pieces(self, tokens: Sequence[int], *, model: str | None) -> list[bytes]:
        """The bytes of each id. Raises `InvalidRequest` for an id the vocabulary does not have."""
        ...

    async def detokenize(self, tokens: Sequence[int], *, model: str | None) -> str: ...

    def models(self) -> Sequence[ModelStatus]:
        """All that are served, the one that answers unnamed requests first. Never blocks, never wakes anything."""
        ...

    def resolve(self, name: str | None, *, strict: bool = False) -> ModelStatus:
        """The model that would answer for `name`. Never wakes it.

        Raises `ModelNotFound` for an unknown name where several models are served, where names are strict, or with
        `strict`; and `InvalidRequest` for no name where none of several models is the first choice.
        """
        ...

    async def load(
        self, name: str, *, keep_alive_s: float | None = None, options: LoadOptions = NO_LOAD_OPTIONS
    ) -> float:
        """Make sure that it is loaded; returns the seconds that took. The name is strict."""
        ...

    async def unload(self, name: str) -> None:
        """Unload it as soon as no request uses it; returns at once. The name is strict."""
        ...

    def pull(self, name: str) -> AsyncIterator[PullProgress]:
        """Download a model, so that it is served from then on; the last step says "success"."""
        ...

    async def copy(self, source: str, destination: str) -> None:
        """Serve a model under one more name."""
        ...

    async def delete(self, name: str) -> None:
        """Forget a pulled model and its file. Raises `PermissionDenied` for one that was not pulled."""
        ...

    def state(self) -> ServiceState: ...


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """What the server itself may be told. Checked where flags are read."""

    version: str
    api_keys: tuple[str, ...] = ()  # empty: open to everyone
    max_body_bytes: int = 64 * 1024 * 1024  # after decompression
    max_inputs: int = 2048  # texts in one request
    metrics_enabled: bool = True
    ollama_port: int = 11434  # on this port `GET /` answers exactly as Ollama does
    token_ids: TokenIdRule = field(default_factory=TokenIdRule)  # on /v1/embeddings
    remote_hosts: RemoteHosts = field(default_factory=RemoteHosts)  # that images may be fetched from


@dataclass(frozen=True, slots=True)
class Route:
    """One line of the route table; documentation and tests read it too."""

    method: str
    path: str  # aiohttp's pattern
    handler: Handler
    summary: str
    auth_required: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class Dialect:
    """One API that clients speak."""

    name: str  # as people write it: "OpenAI"
    routes: tuple[Route, ...]
    errors: ErrorFormat
    error_schema: str  # what its errors are called in `openapi`, or in the shared file
    openapi: tuple[Traversable, ...]  # TOML: its routes in words and JSON Schema, see `docs/openapi.py`
    path_prefix: str = ""  # an unknown path below it gets its errors; "": none


@dataclass(frozen=True, slots=True)
class ServerContext:
    """One server's share of everything, made once by `build_app`."""

    service: Service
    options: ServerOptions
    metrics: Metrics
    dialects: tuple[Dialect, ...]
    started_unix_s: int
    in_flight: InFlightRequests = field(default_factory=InFlightRequests)

    @property
    def routes(self) -> tuple[Route, ...]:
        """The routes of all dialects."""
        return tuple(route for dialect in self.dialects for route in dialect.routes)

    async def embed(self, request: EmbedRequest, check: ModelCheck | None = None) -> EmbedResult:
        """Let the service answer, and count what it did."""
        result = await self.service.embed(request, check)
        self.metrics.observe_texts(
            len(result.output) - len(result.failures),
            result.usage.prompt_tokens,
            result.timings,
            result.truncated,
        )
        if result.windowed or result.failures:
            self.metrics.observe_exceptions(len(result.windowed), result.failures)
        return result

    async def rerank(self, request: RerankRequest) -> RerankResult:
        """The same for scores; a text is a query with one document."""
        result = await self.service.rerank(request)
        self.metrics.observe_texts(len(result.scores), result.usage.prompt_tokens, result.timings, result.truncated)
        return result


Handler = Callable[[ServerContext, web.Request], Awaitable[web.StreamResponse]]

SERVER_CONTEXT = web.AppKey("context", ServerContext)
