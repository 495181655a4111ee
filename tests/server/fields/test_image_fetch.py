"""Fetching images from allowed hosts, and its limits in bytes and time."""

import asyncio
import gzip
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from aiohttp.abc import AbstractResolver, ResolveResult

from gguf_embed.errors import InvalidRequest, WayOut
from gguf_embed.images.url_allowlist import RemoteHosts
from gguf_embed.server.fields import image_fetch as remote_images
from gguf_embed.server.fields.image_fetch import PublicResolver, RemoteImage, fetch_images


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
    image = RemoteImage(RemoteHosts(("a.com",)).check("http://a.com/x.png", "here"), "here")
    with pytest.raises(InvalidRequest, match=r"^here: a\.com .*private address.*--allow-remote-media"):
        asyncio.run(fetch_images([image], 1000, FixedLookup("127.0.0.1", "169.254.169.254")))


@pytest.fixture
def site():
    """A web site on loopback: /gzip is small and becomes large, /slow takes 0.3 s, /600 has so many bytes."""

    class Site(BaseHTTPRequestHandler):
        def do_GET(self):
            data = {"/gzip": BOMB, "/slow": b"x"}.get(self.path, b"x" * 600)
            self.send_response(200)
            if self.path == "/gzip":
                self.send_header("Content-Encoding", "gzip")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.path == "/slow":
                self.server.ended.wait(0.3)
            self.wfile.write(data)

        def log_message(self, *args):
            pass

    site = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    site.ended = threading.Event()
    thread = threading.Thread(target=site.serve_forever, args=(0.01,))
    thread.start()
    yield site
    site.ended.set()
    site.shutdown()
    thread.join()
    site.server_close()


BOMB = gzip.compress(bytes(1_000_000))


def fetch(site, *paths, max_bytes=2_000):
    address = f"127.0.0.1:{site.server_port}"
    hosts = RemoteHosts((address,))
    images = [RemoteImage(hosts.check(f"http://{address}{path}", path), path) for path in paths]
    return asyncio.run(fetch_images(images, max_bytes))


def test_a_compressed_body_stays_compressed(site):
    assert fetch(site, "/gzip") == [BOMB]


def test_all_images_of_a_request_share_the_limit_in_bytes(site):
    assert [len(data) for data in fetch(site, "/600", "/600", max_bytes=1200)] == [600, 600]
    with pytest.raises(InvalidRequest, match="/600 is larger than 599 bytes"):
        fetch(site, "/600", "/600", max_bytes=1199)


def test_all_images_of_a_request_share_the_limit_in_time(site, monkeypatch):
    monkeypatch.setattr(remote_images, "TIMEOUT_S", 0.7)
    with pytest.raises(InvalidRequest, match=r"127\.0\.0\.1 .*TimeoutError") as caught:
        fetch(site, "/slow", "/slow", "/slow")  # each alone is within it
    assert caught.value.ways_out == (WayOut.SEND_INLINE,)
