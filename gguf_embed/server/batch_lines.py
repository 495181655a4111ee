"""Answers the lines of batches as HTTP requests are answered: the same fields, the same replies, the same errors."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, fields
from functools import partial
from typing import cast

from gguf_embed.batch.batches import Batches
from gguf_embed.batch.input_lines import LineRoom, unlimited_room
from gguf_embed.batch.job import Work
from gguf_embed.batch.lines import LineReply, LineRequest, Rules
from gguf_embed.batch.records import BatchLimits
from gguf_embed.batch.run_lines import Answer
from gguf_embed.errors import EmbedError, EngineFailure, Overloaded, Unavailable
from gguf_embed.server.context import AnswerLine, Dialect, ErrorFormat, ServerContext
from gguf_embed.server.fields import aliases
from gguf_embed.server.http.body_memory import BodyMemories, BodyMemory
from gguf_embed.server.http.errors import INTERNAL_MESSAGE, format_error, is_servers_fault
from gguf_embed.server.http.json_text import parse_object
from gguf_embed.server.http.large_body import share_of
from gguf_embed.server.http.large_json import MIN_INPUTS, parse_large_object
from gguf_embed.server.http.values import JsonObject
from gguf_embed.types import EmbedRequest, EmbedResult, ModelCheck, RerankRequest, RerankResult

logger = logging.getLogger(__name__)

RETRY_UNAVAILABLE_S = 1.0
_INPUTS = ("input", "content", *aliases.INPUTS)
_LISTS = {"/v1/embeddings": _INPUTS, "/v1/rerank": tuple(aliases.DOCUMENTS)}
"""Where a body has the list of what is computed, by URL."""

_COUNTED = "/v1/embeddings"
"""The route whose batches have a limit on their inputs, as OpenAI's."""


@dataclass(slots=True)
class _Used:
    """What one line took."""

    n_tokens: int = 0
    model: str | None = None

    def note(self, result: EmbedResult | RerankResult) -> None:
        self.n_tokens += result.usage.prompt_tokens
        self.model = result.model.name


@dataclass(frozen=True, slots=True, kw_only=True)
class _LineContext(ServerContext):
    """A context that notes what one line took."""

    used: _Used

    async def embed(self, request: EmbedRequest, check: ModelCheck | None = None) -> EmbedResult:
        result = await ServerContext.embed(self, request, check)
        self.used.note(result)
        return result

    async def rerank(self, request: RerankRequest) -> RerankResult:
        result = await ServerContext.rerank(self, request)
        self.used.note(result)
        return result


@dataclass(frozen=True, slots=True)
class _SentLine:
    """A line, for a handler."""

    headers: Mapping[str, str]


def line_routes(dialects: Sequence[Dialect]) -> dict[str, tuple[AnswerLine, ErrorFormat]]:
    """The routes that lines may be sent to, by URL."""
    return {
        route.path: (route.answer_line, dialect.errors)
        for dialect in dialects
        for route in dialect.routes
        if route.answer_line is not None
    }


def line_rules(
    urls: frozenset[str], limits: BatchLimits, max_inputs: int = MIN_INPUTS, room: LineRoom = unlimited_room
) -> Rules:
    """The rules of a batch whose lines go to one of `urls`. `max_inputs`: of one request. `room`: for large lines."""
    parse_large = partial(parse_large_object, max_inputs=max_inputs, is_nested=True)
    return Rules(urls, limits, parse_object, parse_large, count_inputs, room)


def line_room(memory: BodyMemories) -> LineRoom:
    """Room for large lines in the memory of large bodies, for which they wait without an end."""

    @asynccontextmanager
    async def room(n_line_bytes: int) -> AsyncIterator[asyncio.Lock]:
        n_bytes = share_of(memory.large, n_line_bytes)
        await _take_patiently(memory.large, n_bytes)
        try:
            yield memory.parsing
        finally:
            memory.large.give_back(n_bytes)

    return room


async def _take_patiently(memory: BodyMemory, n_bytes: int) -> None:
    while True:
        try:
            await memory.take(n_bytes)
        except Overloaded as error:
            await asyncio.sleep(error.retry_after_s)
        else:
            return


def count_inputs(url: str, body: JsonObject) -> int:
    """How many texts a body has, without checking them. A list of numbers is one text."""
    for name in _LISTS[url]:
        value = body.get(name)
        if isinstance(value, list):
            return 1 if value and type(value[0]) is int else len(value)
    return 1


def answer_for(context: ServerContext, user_agent: str) -> Answer:
    """Sends lines to their routes, as a client with this User-Agent does."""
    routes = line_routes(context.dialects)
    sent = _SentLine({"User-Agent": user_agent})
    shared = {field.name: getattr(context, field.name) for field in fields(ServerContext)}

    async def answer(request: LineRequest, request_id: str) -> LineReply:
        handler, errors = routes[request.url]
        used = _Used()
        try:
            response = await handler(_LineContext(**shared, used=used), sent, request.body)
        except (Overloaded, Unavailable) as error:
            retry_after_s = error.retry_after_s if isinstance(error, Overloaded) else RETRY_UNAVAILABLE_S
            return LineReply(503, error.message.encode(), retry_after_s=retry_after_s)
        except EmbedError as error:
            failure = error
        except Exception:
            logger.exception("request %s failed", request_id)
            failure = EngineFailure(INTERNAL_MESSAGE)
        else:
            return LineReply(response.status, cast(bytes, response.body), used.n_tokens, used.model)
        if is_servers_fault(failure):
            logger.warning("%s: %s, request %s", failure.kind, failure.message, request_id)
        reply = format_error(failure, errors)
        return LineReply(reply.status, reply.body)

    return answer


def work_of(context: ServerContext, batches: Batches) -> Work:
    """How the batches of this server are computed."""
    max_inputs, room = context.options.max_inputs, line_room(context.body_memory)
    return Work(
        rules_of=lambda endpoint: line_rules(frozenset({endpoint}), batches.limits, max_inputs, room),
        answer_of=lambda batch: answer_for(context, batch.user_agent),
    )
