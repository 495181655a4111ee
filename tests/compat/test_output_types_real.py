"""Integers and bits through the official openai client, against the real server process."""

from __future__ import annotations

import base64
from collections.abc import Iterator

import numpy as np
import openai
import pytest

from gguf_embed.vectors import INT8_SCALE
from tests.near import assert_near
from tests.server_process import Server

TEXTS = ["How do I boil an egg?", "안녕하세요 세계", "the cat sat on the mat"]
SMALL = ("int8", "uint8", "binary", "ubinary")


@pytest.fixture(scope="module")
def client(default_server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=default_server.url + "/v1", api_key="unused", max_retries=0) as opened:
        yield opened


@pytest.fixture(scope="module")
def vectors(default_server: Server) -> np.ndarray:
    return default_server.embed(TEXTS)


@pytest.mark.parametrize("field", ["output_dtype", "embedding_type", "embed_dtype", "embedding_types"])
def test_openais_client_gets_integers_with_encoding_format_float(client, vectors, field):
    for dtype in SMALL:
        reply = client.embeddings.create(
            model="any",
            input=TEXTS,
            encoding_format="float",
            extra_body={field: [dtype] if field[-1] == "s" else dtype},
        )
        assert_near([item.embedding for item in reply.data], vectors, dtype)


def test_openais_client_without_encoding_format_is_told_what_to_pass(client):
    with pytest.raises(openai.BadRequestError, match='pass encoding_format="float"'):
        client.embeddings.create(model="any", input=TEXTS, extra_body={"output_dtype": "int8"})


def test_openais_client_gets_several_types_at_once(client, vectors):
    reply = client.embeddings.create(model="any", input=TEXTS, extra_body={"embedding_types": ["base64", "ubinary"]})
    both = [item.embedding for item in reply.data]
    floats = [np.frombuffer(base64.b64decode(item["base64"]), "<f4") for item in both]
    np.testing.assert_allclose(floats, vectors, atol=1e-5)


def test_plain_http_gets_the_bytes(default_server, vectors):
    body = {"input": TEXTS, "output_dtype": "int8", "encoding_format": "base64", "dimensions": 100}
    data = default_server.post("/v1/embeddings", body).json()["data"]
    rows = np.stack([np.frombuffer(base64.b64decode(item["embedding"]), np.int8) for item in data])
    cut = vectors[:, :100] / np.linalg.norm(vectors[:, :100], axis=1, keepdims=True)
    assert np.abs(rows / INT8_SCALE - cut).max() < 0.51 / INT8_SCALE


def test_int8_keeps_the_order_of_texts_and_their_cosines(default_server, vectors):
    data = default_server.post("/v1/embeddings", {"input": TEXTS, "output_dtype": "int8"}).json()["data"]
    rows = np.array([item["embedding"] for item in data], np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    assert (rows * vectors).sum(axis=1).min() > 0.998
    assert np.abs(rows @ rows.T - vectors @ vectors.T).max() < 0.01


def test_types_go_with_spans_and_with_inputs_that_fail(default_server):
    fields = {"output_dtype": "int8", "dimensions": 8}
    skipped = default_server.post(
        "/v1/embeddings", {"input": ["a", "b " * 900, "c"], "on_error": "skip", **fields}
    ).json()
    assert [(item["index"], len(item["embedding"])) for item in skipped["data"]] == [(0, 8), (2, 8)]
    assert all(isinstance(number, int) for item in skipped["data"] for number in item["embedding"])
    spans = default_server.post(
        "/v1/embeddings", {"input": ["a big cat"], "spans": [[[0, 1], [2, 9]]], **fields}
    ).json()
    assert [len(item["embedding"]) for item in spans["data"]] == [8, 8]
