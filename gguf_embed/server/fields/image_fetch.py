"""Fetches images that a request names by URL, from hosts that the operator named and nowhere else."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from dataclasses import dataclass

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from gguf_embed.errors import InvalidRequest
from gguf_embed.images.checks import MAX_BYTES
from gguf_embed.images.url_allowlist import RemoteUrl, is_public

TIMEOUT_S = 20.0
"""For all images of a request."""


@dataclass(frozen=True, slots=True)
class RemoteImage:
    """An image that is still elsewhere; `where` it stands in the request."""

    url: RemoteUrl
    where: str


class _NoPublicAddress(OSError):
    """The host's name leads to addresses inside a private network only."""


class PublicResolver(AbstractResolver):
    """Looks names up, and gives addresses of the open internet only: a name may not lead inside.

    aiohttp connects to what it is given here, so a second look-up cannot give another address. It does not ask for a
    host that is itself an address: that one was named as such.
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
    """Fetch them one after another. Redirects are not followed. Raises `InvalidRequest`.

    `max_bytes` is for all together; `lookup` asks the system when None.
    """
    found: list[bytes] = []
    deadline_s = asyncio.get_running_loop().time() + TIMEOUT_S
    connector = aiohttp.TCPConnector(resolver=PublicResolver(lookup), limit=1)
    # no proxy, which would look names up itself, and no compressed bodies, which may be small and become large
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
                    f"{image.where}: {image.url.host} did not give the image within {TIMEOUT_S:.0f} s "
                    f"({type(exc).__name__}): send it as data:image/png;base64,…"
                ) from exc
    return found


def _private(image: RemoteImage) -> str:
    return (
        f"{image.where}: {image.url.host} leads to a private address, which is not fetched by name: "
        "name the address itself in the URL and in --allow-remote-media"
    )


async def _fetch(session: aiohttp.ClientSession, image: RemoteImage, max_bytes: int) -> bytes:
    data = bytearray()
    async with session.get(image.url.url, allow_redirects=False) as reply:
        if reply.status != 200:
            raise InvalidRequest(
                f"{image.where}: {image.url.host} answered {reply.status}, and only a 200 is read: "
                "redirects are not followed"
            )
        async for piece in reply.content.iter_chunked(65_536):
            data += piece
            if len(data) > max_bytes:
                raise InvalidRequest(f"{image.where} is larger than {max_bytes:,} bytes: send a smaller image")
    return bytes(data)
