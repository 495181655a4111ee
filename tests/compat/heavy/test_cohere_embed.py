"""The official cohere clients embed, against the real server process."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator

import cohere
import numpy as np
import pytest

from tests.near import assert_near
from tests.server_process import Server

TEXTS = ["How do I boil an egg?", "안녕하세요 세계", "the cat sat on the mat"]
SMALL = ("int8", "uint8", "binary", "ubinary")


@pytest.fixture(scope="module")
def coheres(default_server: Server) -> Iterator[cohere.ClientV2]:
    with cohere.ClientV2("unused", base_url=default_server.url) as opened:
        yield opened


@pytest.fixture(scope="module")
def vectors(default_server: Server) -> np.ndarray:
    return default_server.embed(TEXTS)


def test_coheres_client_gets_every_type(coheres, vectors):
    reply = coheres.embed(
        model="embed-v4.0",
        texts=TEXTS,
        input_type="search_document",
        embedding_types=["float", "base64", *SMALL],
        truncate="END",
    )
    np.testing.assert_allclose(reply.embeddings.float_, vectors, atol=1e-5)
    decoded = [np.frombuffer(base64.b64decode(row), "<f4") for row in reply.embeddings.base64]
    np.testing.assert_allclose(decoded, vectors, atol=1e-5)
    for dtype in SMALL:
        assert_near(getattr(reply.embeddings, dtype), vectors, dtype)
    assert reply.texts == TEXTS
    assert reply.meta.billed_units.input_tokens > len(TEXTS)


def test_coheres_client_cuts_dimensions_and_sees_what_was_cut(coheres):
    reply = coheres.embed(
        model="any", texts=["word " * 1000], input_type="search_query", embedding_types=["ubinary"], output_dimension=64
    )
    assert len(reply.embeddings.ubinary[0]) == 8
    assert reply.meta.warnings == ["text 0 was cut: 512 of 1002 tokens were read"]
    with pytest.raises(cohere.BadRequestError, match="1002 tokens"):
        coheres.embed(model="any", texts=["word " * 1000], input_type="search_query", truncate="NONE")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the client's own, of pydantic
def test_coheres_older_client_with_and_without_types(default_server, vectors):
    with cohere.Client("unused", base_url=default_server.url) as client:
        bare = client.embed(texts=TEXTS, model="any", input_type="clustering")
        np.testing.assert_allclose(bare.embeddings, vectors, atol=1e-5)
        typed = client.embed(texts=TEXTS, model="any", input_type="clustering", embedding_types=["int8"])
        assert_near(typed.embeddings.int8, vectors, "int8")


def test_coheres_async_client(default_server, vectors):
    async def scenario() -> list[float]:
        async with cohere.AsyncClientV2("unused", base_url=default_server.url) as client:
            reply = await client.embed(model="any", texts=TEXTS, input_type="search_query")
            return reply.embeddings.float_

    np.testing.assert_allclose(asyncio.run(scenario()), vectors, atol=1e-5)
