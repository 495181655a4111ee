"""Compressed bodies: which are read, which are refused, and how."""

from __future__ import annotations

import asyncio
import gzip
import zlib

import pytest

from gguf_embed.errors import InvalidRequest
from gguf_embed.server.http.content_encoding import unpack
from tests.server.fake_service import serving

BODY = b'{"input": "hello"}'


def raw_deflate(body: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(body) + packer.flush()


@pytest.mark.parametrize(
    ("raw", "encoding"),
    [
        (gzip.compress(BODY), "gzip"),
        (gzip.compress(BODY), " GZIP "),
        (gzip.compress(BODY), "x-gzip"),
        (zlib.compress(BODY), "deflate"),
        (raw_deflate(BODY), "deflate"),
    ],
)
def test_gzip_and_both_kinds_of_deflate_are_unpacked(raw, encoding):
    assert unpack(raw, encoding, len(BODY)) == BODY


@pytest.mark.parametrize("limit", [0, 1, 100])
def test_no_more_than_one_byte_over_the_limit_is_unpacked(limit):
    assert len(unpack(gzip.compress(b" " * 1_000_000), "gzip", limit)) == limit + 1


@pytest.mark.parametrize(
    ("raw", "encoding"),
    [
        (b"not gzip", "gzip"),
        (gzip.compress(BODY)[:-5], "gzip"),
        (gzip.compress(BODY) + b"more", "gzip"),
        (gzip.compress(BODY), "deflate"),
        (zlib.compress(BODY)[:-1], "deflate"),
    ],
)
def test_a_damaged_body_is_refused(raw, encoding):
    with pytest.raises(InvalidRequest, match=f"damaged, or not {encoding}"):
        unpack(raw, encoding, 1000)


@pytest.mark.parametrize(
    ("encoding", "raw", "status", "words"),
    [
        ("gzip", gzip.compress(BODY), 200, ""),
        ("deflate", zlib.compress(BODY), 200, ""),
        ("deflate", raw_deflate(BODY), 200, ""),
        ("gzip", b"", 400, "the body is empty"),
        ("identity", BODY, 200, ""),
        ("identity", b"{", 400, "not valid JSON"),
        ("utf-8", BODY, 200, ""),
        ("br", b"\x0b\x08\x80{}\x03", 400, "Content-Encoding 'br'"),
        ("zstd", b"\x28\xb5\x2f\xfd", 400, "Content-Encoding 'zstd'"),
        ("foo", b"?", 400, "Content-Encoding 'foo'"),
        ("gzip, gzip", gzip.compress(gzip.compress(BODY)), 400, "Content-Encoding 'gzip, gzip'"),
    ],
)
def test_a_body_is_read_or_refused_in_the_routes_shape_and_with_its_id(encoding, raw, status, words):
    async def scenario():
        async with serving() as running:
            headers = {"Content-Encoding": encoding, "X-Request-Id": "mine"}
            reply = await running.post("/v1/embeddings", raw, headers=headers)
            assert (reply.status, reply.headers["X-Request-Id"]) == (status, "mine"), reply.raw
            assert reply.headers["Content-Type"] == "application/json"
            assert status == 200 or words in reply.json["error"]["message"]
            assert (await running.post("/v1/embeddings", BODY)).status == 200

    asyncio.run(scenario())
