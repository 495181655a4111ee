"""What every handler is given: the service behind the door, the options, the metrics, and the routes themselves."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from aiohttp import web

from gguf_embed.metrics import Metrics
from gguf_embed.server.drain import Drain
from gguf_embed.types import EmbedRequest, EmbedResult, ModelInfo, Prompt, ServiceState


class Service(Protocol):
    """The use cases behind the door. Every method raises `EmbedError`s only."""

    async def embed(self, request: EmbedRequest) -> EmbedResult: ...

    async def tokenize(self, content: Prompt, *, add_special: bool, parse_special: bool) -> list[int]: ...

    def token_bytes(self, token: int) -> bytes:
        """Raises `InvalidRequest` for an id the vocabulary does not have."""
        ...

    async def detokenize(self, tokens: Sequence[int]) -> str: ...

    def model(self) -> ModelInfo:
        """Never blocks, never wakes anything."""
        ...

    def resolve(self, name: str | None) -> ModelInfo:
        """The model that would answer for `name`. Raises `ModelNotFound` where names are strict."""
        ...

    def state(self) -> ServiceState: ...


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """What the door itself may be told. Checked where flags are read."""

    version: str
    api_keys: tuple[str, ...] = ()  # empty: open to everyone
    max_body_bytes: int = 64 * 1024 * 1024  # after decompression
    max_inputs: int = 2048  # texts in one request
    metrics_enabled: bool = True


class Dialect(StrEnum):
    """Whose shape an error takes on a route."""

    OPENAI = "openai"
    LLAMA = "llama"


@dataclass(frozen=True, slots=True)
class Route:
    """One line of the route table; documentation and tests read it too."""

    method: str
    path: str  # aiohttp's pattern
    handler: Handler
    summary: str
    auth_required: bool = True
    dialect: Dialect = Dialect.LLAMA


@dataclass(frozen=True, slots=True)
class Door:
    """One server's share of everything, made once by `build_app`."""

    service: Service
    options: ServerOptions
    metrics: Metrics
    routes: tuple[Route, ...]
    started_unix_s: int
    drain: Drain = field(default_factory=Drain)

    async def embed(self, request: EmbedRequest) -> EmbedResult:
        """Let the service answer, and count what it did."""
        result = await self.service.embed(request)
        self.metrics.observe_texts(
            len(result.row_offsets) - 1, result.usage.prompt_tokens, result.timings, result.truncated
        )
        return result


Handler = Callable[[Door, web.Request], Awaitable[web.Response]]

DOOR = web.AppKey("door", Door)
