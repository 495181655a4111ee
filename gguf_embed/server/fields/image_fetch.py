"""Fetches images that a request names by URL, only from hosts that the operator has allowed."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from dataclasses import dataclass

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from gguf_embed.errors import InvalidRequest, WayOut
from gguf_embed.images.checks import MAX_BYTES
from gguf_embed.images.url_allowlist import RemoteUrl, is_public

TIMEOUT_S = 20.0
"""Time limit for all images of a request together."""


@dataclass(frozen=True, slots=True)
class RemoteImage:
    """An image to be fetched. `where` is its place in the request."""

    url: RemoteUrl
    where: str


class _NoPublicAddress(OSError):
    """A host's name has no public address."""


class PublicResolver(AbstractResolver):
    """Resolves names to public addresses only, so that a name cannot lead into a private network.

    aiohttp connects to the address returned here, so a second lookup cannot return a different one. It does not resolve
    a host that is itself an address, which the operator has allowed explicitly.
    """

    def __init__(self, lookup: AbstractResolver | None = None) -> None:
        self._lookup = lookup or aiohttp.ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._lookup.resolve(host, port, family)
        public = [result for result in found if host == "localhost" or is_public(result["host"])]
        if not public:
            raise _NoPublicAddress(f"{host} has no public address")
        return public

    async def close(self) -> None:
        await self._lookup.close()


async def fetch_images(
    images: Sequence[RemoteImage], max_bytes: int, lookup: AbstractResolver | None = None
) -> list[bytes]:
    """Fetch images one after another, without following redirects. Raises `InvalidRequest`.

    `max_bytes` is the limit for all of them together. `lookup` None: the system's resolver.
    """
    found: list[bytes] = []
    deadline_s = asyncio.get_running_loop().time() + TIMEOUT_S
    connector = aiohttp.TCPConnector(resolver=PublicResolver(lookup), limit=1)
    # no proxy, because it would resolve names itself, and no compressed bodies, because they may expand to any size
    async with aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
        auto_decompress=False,
        timeout=aiohttp.ClientTimeout(total=TIMEOUT_S),
        headers={"Accept-Encoding": "identity", "User-Agent": "gguf-embed"},
    ) as session:
        for image in images:
            try:
                async with asyncio.timeout_at(deadline_s):
                    found.append(await _fetch(session, image, min(MAX_BYTES, max_bytes - sum(map(len, found)))))
            except _NoPublicAddress as exc:
                raise InvalidRequest(_private(image)) from exc
            except (aiohttp.ClientError, OSError, TimeoutError) as exc:
                if isinstance(exc, aiohttp.ClientConnectorDNSError) and isinstance(exc.os_error, _NoPublicAddress):
                    raise InvalidRequest(_private(image)) from exc
                raise InvalidRequest(
                    f"{image.where}: {image.url.host} did not send the image within {TIMEOUT_S:.0f} s "
                    f"({type(exc).__name__})",
                    ways_out=[WayOut.SEND_INLINE],
                ) from exc
    return found


def _private(image: RemoteImage) -> str:
    return (
        f"{image.where}: {image.url.host} resolves to a private address, which is not fetched by name: "
        "use the address itself, in the URL and in --allow-remote-media"
    )


async def _fetch(session: aiohttp.ClientSession, image: RemoteImage, max_bytes: int) -> bytes:
    data = bytearray()
    async with session.get(image.url.url, allow_redirects=False) as reply:
        if reply.status != 200:
            raise InvalidRequest(
                f"{image.where}: {image.url.host} answered {reply.status} instead of 200 (redirects are not followed)"
            )
        async for piece in reply.content.iter_chunked(65_536):
            data += piece
            if len(data) > max_bytes:
                raise InvalidRequest(f"{image.where} is larger than {max_bytes:,} bytes: send a smaller image")
    return bytes(data)
