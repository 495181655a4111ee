"""A named host whose name leads inside is not fetched."""

import asyncio
import socket

import pytest
from aiohttp.abc import AbstractResolver, ResolveResult

from gguf_embed.errors import InvalidRequest
from gguf_embed.remote_hosts import RemoteHosts
from gguf_embed.server.remote_pictures import PublicResolver, RemotePicture, fetch_pictures


class FixedLookup(AbstractResolver):
    """Every name has these addresses."""

    def __init__(self, *addresses):
        self._addresses = addresses

    async def resolve(self, host, port=0, family=socket.AF_INET):
        return [
            ResolveResult(hostname=host, host=address, port=port, family=family, proto=0, flags=0)
            for address in self._addresses
        ]

    async def close(self):
        pass


def addresses(name, *found):
    async def look_up():
        return [result["host"] for result in await PublicResolver(FixedLookup(*found)).resolve(name, 80)]

    return asyncio.run(look_up())


def test_of_a_names_addresses_only_the_public_ones_are_used():
    assert addresses("a.com", "10.0.0.1", "93.184.216.34", "::1") == ["93.184.216.34"]


def test_localhost_can_only_have_been_meant_as_such():
    assert addresses("localhost", "127.0.0.1") == ["127.0.0.1"]


def test_a_name_with_private_addresses_only_is_refused_with_the_way_out():
    picture = RemotePicture(RemoteHosts(("a.com",)).check("http://a.com/x.png", "here"), "here")
    with pytest.raises(InvalidRequest, match=r"here: a\.com leads to a private address.*name the address itself"):
        asyncio.run(fetch_pictures([picture], 1000, FixedLookup("127.0.0.1", "169.254.169.254")))
