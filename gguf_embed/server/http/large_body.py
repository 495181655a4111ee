"""Reads bodies that are not small, or compressed or of unknown length: as memory allows, large ones on a thread."""

from __future__ import annotations

import asyncio

from aiohttp import ClientPayloadError, web

from gguf_embed.errors import InvalidRequest, PayloadTooLarge
from gguf_embed.server.context import ServerContext
from gguf_embed.server.http import content_encoding
from gguf_embed.server.http.body_memory import BodyMemory
from gguf_embed.server.http.json_text import parse_object
from gguf_embed.server.http.large_json import parse_large_object
from gguf_embed.server.http.values import JsonObject

BODY_TIMEOUT_S = 60.0
SMALL_BODY_BYTES = 2**14
"""Bodies up to this size are not counted."""

INLINE_BODY_BYTES = 2**18
"""Bodies up to this size are parsed on the event loop (under 5 ms). They are medium: read at once, then counted."""

COPIES = 2
"""What a body takes in memory, in its own size: once as it was sent, once as texts."""

MAX_DEFLATE_RATIO = 1032


def share_of(memory: BodyMemory, n_body_bytes: int) -> int:
    """What a body takes, in bytes. One over the limit waits until it is the only one."""
    return min(COPIES * n_body_bytes, memory.limit_bytes)


class BodyLease:
    """What one request's body takes of the memory for bodies. It ends with the request's task."""

    def __init__(self, memory: BodyMemory) -> None:
        self._memory = memory
        self._n_bytes = 0

    async def take(self, n_body_bytes: int) -> None:
        """Once for a request, before the memory is needed. Raises `Overloaded`."""
        task = asyncio.current_task()
        assert task is not None
        n_bytes = share_of(self._memory, n_body_bytes)
        await self._memory.take(n_bytes)
        self._n_bytes = n_bytes
        task.add_done_callback(self._end)

    def shrink(self, n_body_bytes: int) -> None:
        """The body turned out to be smaller."""
        n_bytes = share_of(self._memory, n_body_bytes)
        if n_bytes < self._n_bytes:
            self._memory.give_back(self._n_bytes - n_bytes)
            self._n_bytes = n_bytes

    def _end(self, task: asyncio.Task[object]) -> None:
        self._memory.give_back(self._n_bytes)


async def read_large_object(context: ServerContext, request: web.Request) -> JsonObject:
    """`read_json_object` for such a body. Raises `Overloaded`, too, if there is no memory for the body."""
    limit = context.options.max_body_bytes
    if request.content_length is not None and request.content_length > limit:
        raise too_large(limit)
    encoding = request.headers.get("Content-Encoding", "")
    lease, medium = BodyLease(context.body_memory.large), BodyLease(context.body_memory.medium)
    task = asyncio.current_task()
    assert task is not None
    if content_encoding.is_supported(encoding):
        packed = await _read(request, lease, limit, limit)
        if len(packed) <= INLINE_BODY_BYTES:
            await medium.take(min(INLINE_BODY_BYTES, limit, MAX_DEFLATE_RATIO * len(packed)))
        context.in_flight.enter(task)
        raw = await _unpack(packed, encoding, lease, medium, limit)
    else:
        raw = await _read(request, lease, request.content_length or limit, limit)
        if SMALL_BODY_BYTES < len(raw) <= INLINE_BODY_BYTES:
            await medium.take(len(raw))
        context.in_flight.enter(task)
    lease.shrink(len(raw))
    medium.shrink(len(raw))
    try:
        return await _parse(context, raw)
    except InvalidRequest as exc:
        if content_encoding.is_supported(encoding) or content_encoding.is_identity(encoding):
            raise
        raise content_encoding.unsupported(encoding) from exc  # some clients send "utf-8" there, with plain JSON


async def _read(request: web.Request, lease: BodyLease, n_needed: int, limit: int) -> bytearray:
    """Read at most `INLINE_BODY_BYTES`, and more once there is room for `n_needed` bytes."""
    raw = bytearray()
    n_inline = min(limit, INLINE_BODY_BYTES)
    if (request.content_length or 0) <= n_inline and await _read_up_to(request, raw, n_inline):
        return raw
    await lease.take(n_needed)
    if not await _read_up_to(request, raw, limit):
        raise too_large(limit)
    return raw


async def _read_up_to(request: web.Request, raw: bytearray, n_bytes: int) -> bool:
    """Read until the end, or until there are more than `n_bytes`; returns whether that was the end."""
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            while len(raw) <= n_bytes:
                some = await request.content.readany()
                if not some:
                    return True
                raw += some
    except TimeoutError as exc:
        raise late() from exc
    except (web.RequestPayloadError, ClientPayloadError) as exc:
        raise incomplete() from exc
    return False


async def _unpack(packed: bytearray, encoding: str, lease: BodyLease, medium: BodyLease, limit: int) -> bytearray:
    if len(packed) <= INLINE_BODY_BYTES:
        n_inline = min(limit, INLINE_BODY_BYTES)
        unpacked = await asyncio.to_thread(content_encoding.unpack, packed, encoding, n_inline)
        if len(unpacked) <= n_inline:
            return unpacked
        medium.shrink(0)  # others must not wait for it while this one waits
        await lease.take(min(limit, MAX_DEFLATE_RATIO * len(packed)))
    unpacked = await asyncio.to_thread(content_encoding.unpack, packed, encoding, limit)
    if len(unpacked) > limit:
        raise too_large(limit)
    return unpacked


async def _parse(context: ServerContext, raw: bytearray) -> JsonObject:
    if len(raw) <= INLINE_BODY_BYTES:
        return parse_object(raw)
    async with context.body_memory.parsing:
        return await asyncio.to_thread(parse_large_object, raw, context.options.max_inputs)


def late() -> InvalidRequest:
    return InvalidRequest(f"the body did not arrive within {BODY_TIMEOUT_S:g} s: send it again")


def incomplete() -> InvalidRequest:
    return InvalidRequest("the body could not be read: it is incomplete or not encoded as its headers say")


def too_large(limit: int) -> PayloadTooLarge:
    return PayloadTooLarge(
        f"the body is over {limit:,} bytes: send less in one request, or start the server with a larger --max-body-size"
    )
