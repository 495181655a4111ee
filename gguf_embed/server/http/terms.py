"""What a request's headers and body say about its treatment: how urgent it is, how long it may take, and whether
anything of it is kept."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Mapping
from dataclasses import replace

from aiohttp import web
from aiohttp.typedefs import Handler

from gguf_embed.durations import parse_seconds
from gguf_embed.errors import DeadlineExceeded, InvalidRequest, WayOut
from gguf_embed.server.http.values import describe, whole_number
from gguf_embed.types import CALLER, Priority

PRIORITY_HEADER = "X-Priority"
PRIORITY_FIELD = "priority"
TIMEOUT_HEADER = "X-Request-Timeout"

_ORDER = tuple(Priority)
_CLIENT_BITS = 64  # of an IPv6 address; the other half is the machine's own choice


def client_of(address: str) -> str:
    """The client behind an IPv6 address: its network, because a machine may use any address in it."""
    try:
        found = ipaddress.IPv6Address(address.partition("%")[0])
    except ValueError:
        return address
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(found), _CLIENT_BITS), strict=False))


def parse_priority(value: object, param: str) -> Priority:
    """A class by its name; or vLLM's and Cohere's number, of which a smaller one goes first and 0 is normal.

    Raises `InvalidRequest` naming the field or header.
    """
    number = whole_number(value)
    if number is not None:
        return Priority.NORMAL if number == 0 else Priority.HIGH if number < 0 else Priority.LOW
    text = value.strip().lower() if isinstance(value, str) else ""
    if text.removeprefix("-").isdecimal():
        return parse_priority(int(text), param)
    if text not in _ORDER:
        names = ", ".join(_ORDER)
        raise InvalidRequest(f'"{param}" must be one of {names}, or a whole number; found {describe(value)}', param)
    return Priority(text)


def ask_priority(value: object, param: str) -> None:
    """Give the caller of this task the class it asks for, or the highest that its key may have."""
    caller = CALLER.get()
    asked = parse_priority(value, param)
    priority = max(asked, caller.highest, key=_ORDER.index)
    CALLER.set(replace(caller, priority=priority))


def ask_cache(value: str) -> None:
    """With `Cache-Control: no-store` or `no-cache`, everything is computed, and nothing of it is kept."""
    if {"no-store", "no-cache"}.intersection(part.strip().lower() for part in value.split(",")):
        CALLER.set(replace(CALLER.get(), cache_scope=None))


async def within_time(request: web.Request, handler: Handler, limit_s: float | None) -> web.StreamResponse:
    """Run a handler for as long as the server and the request's header allow.

    It is cancelled then, like one whose client has left, so its texts that wait are dropped before they run. Raises
    `DeadlineExceeded`, or `InvalidRequest` for a header that is no time.
    """
    asked_s = _asked_seconds(request.headers)
    is_asked = asked_s is not None and (limit_s is None or asked_s < limit_s)
    seconds = asked_s if is_asked else limit_s
    try:
        async with asyncio.timeout(seconds) as timeout:
            return await handler(request)
    except TimeoutError:
        if not timeout.expired():
            raise
    assert seconds is not None  # it has expired
    raise DeadlineExceeded(seconds, [WayOut.FEWER_INPUTS, WayOut.ASK_TIME if is_asked else WayOut.LARGER_TIMEOUT])


def _asked_seconds(headers: Mapping[str, str]) -> float | None:
    asked = headers.get(TIMEOUT_HEADER)
    if asked is None:
        return None
    try:
        seconds = parse_seconds(asked.strip())
    except ValueError as exc:
        raise InvalidRequest(f"{TIMEOUT_HEADER}: {exc}"[:200], TIMEOUT_HEADER) from exc
    if not seconds:
        raise InvalidRequest(f"{TIMEOUT_HEADER} must be more than 0 s, found {asked}"[:200], TIMEOUT_HEADER)
    return seconds
