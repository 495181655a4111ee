"""API keys, compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import replace

from gguf_embed.errors import AuthenticationFailed
from gguf_embed.types import Caller, Priority


class ApiKeys:
    """The accepted keys, as digests. There is at least one. `classes` has those keys that are limited to a class."""

    def __init__(self, keys: Sequence[str], classes: Mapping[str, Priority] | None = None) -> None:
        self._callers = {
            _digest(key): _caller(number, key, (classes or {}).get(key)) for number, key in enumerate(keys, 1)
        }
        self._digests = tuple(_digest(key) for key in keys if key)

    def check(self, authorization: str | None, *keys: str | None) -> Caller:
        """The client with a known key, from "Authorization" or a header with the key alone.

        Raises `AuthenticationFailed`.
        """
        scheme, _, bearer = (authorization or "").partition(" ")
        offered = [key for key in (bearer.strip() if scheme.lower() == "bearer" else "", *keys) if key]
        if not offered:
            raise AuthenticationFailed('Invalid API Key: send "Authorization: Bearer KEY" or "X-Api-Key: KEY"')
        accepted = [self._count_equal(key) for key in offered]
        if not sum(accepted):
            raise AuthenticationFailed("Invalid API Key: this server does not accept the key")
        return self._callers[_digest(offered[accepted.index(max(accepted))])]

    def _count_equal(self, key: str) -> int:
        # a sum instead of any(), so that every key is compared and the time does not reveal which one matched
        digest = _digest(key)
        return sum(hmac.compare_digest(digest, known) for known in self._digests)


def _caller(number: int, key: str, priority: Priority | None) -> Caller:
    caller = Caller(f"key {number}", cache_scope=_digest(key).hex())
    return caller if priority is None else replace(caller, priority=priority, highest=priority)


def _digest(key: str) -> bytes:
    # aiohttp passes undecodable header bytes as surrogates
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def accepted_key(headers: Mapping[str, str], keys: Sequence[str]) -> str:
    """The key by which a request was accepted; "" if the server has none."""
    _, _, bearer = headers.get("Authorization", "").partition(" ")
    offered = (bearer.strip(), headers.get("X-Api-Key", ""), headers.get("Api-Key", ""))
    digests = {_digest(key) for key in keys}
    return next((key for key in offered if _digest(key) in digests), "")
