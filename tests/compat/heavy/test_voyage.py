"""The official voyageai client embeds and reranks."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
import voyageai

from tests.compat.heavy.comparing import assert_own
from tests.server_process import Server

TEXTS = ["How do I boil an egg?", "안녕하세요 세계", "🦊" * 20, "the price of eggs"]
TOO_LONG = "long " * 1000
QUERY = "the cat"
DOCUMENTS = ["a red dog", "the cat sat on the mat", "hello world"]


def voyage(server: Server, key: str = "right") -> voyageai.Client:
    return voyageai.Client(api_key=key, base_url=server.url + "/v1")


def test_it_embeds(default_server):
    reply = voyage(default_server).embed(TEXTS, model="all-MiniLM-L6-v2")
    assert_own(reply.embeddings, default_server, TEXTS)
    assert reply.total_tokens > len(TEXTS)


def test_its_async_client_embeds(default_server):
    client = voyageai.AsyncClient(api_key="unused", base_url=default_server.url + "/v1")
    reply = asyncio.run(client.embed(TEXTS, model="all-MiniLM-L6-v2", input_type="document"))
    assert_own(reply.embeddings, default_server, TEXTS)


def test_it_cuts_texts_unless_told_otherwise(default_server):
    client = voyage(default_server)
    assert client.embed([TOO_LONG], model="any").total_tokens == 512
    with pytest.raises(voyageai.error.InvalidRequestError, match="too large"):
        client.embed([TOO_LONG], model="any", truncation=False)


def test_it_gets_other_number_types_and_dimensions(default_server):
    client = voyage(default_server)
    assert len(client.embed(["a"], model="any", output_dimension=64).embeddings[0]) == 64
    for dtype, low, high in (("int8", -128, 127), ("uint8", 0, 255), ("binary", -128, 127), ("ubinary", 0, 255)):
        row = np.array(client.embed(["a"], model="any", output_dtype=dtype).embeddings[0])
        own = default_server.post("/v1/embeddings", {"input": "a", "output_dtype": dtype}).json()
        assert row.tolist() == own["data"][0]["embedding"]
        assert low <= row.min() <= row.max() <= high


@pytest.mark.parametrize("top_k", [None, 2])
def test_it_reranks(reranker, top_k):
    reply = voyage(reranker).rerank(QUERY, DOCUMENTS, model="any", top_k=top_k)
    body = {"query": QUERY, "documents": DOCUMENTS, "top_n": top_k}
    own = reranker.post("/v1/rerank", body, Authorization="Bearer right").json()
    assert [item.index for item in reply.results] == [item["index"] for item in own["results"]]
    assert [item.document for item in reply.results] == [DOCUMENTS[item["index"]] for item in own["results"]]
    scores = [item.relevance_score for item in reply.results]
    assert scores == pytest.approx([item["relevance_score"] for item in own["results"]], abs=1e-5)
    assert reply.total_tokens == own["usage"]["total_tokens"]


def test_its_long_documents_are_cut_unless_told_otherwise(reranker):
    client = voyage(reranker)
    assert client.rerank(QUERY, ["dog " * 100], model="any").results
    with pytest.raises(voyageai.error.InvalidRequestError, match="too large"):
        client.rerank(QUERY, ["dog " * 100], model="any", truncation=False)


def test_it_raises_its_own_errors(reranker):
    with pytest.raises(voyageai.error.InvalidRequestError, match="documents"):
        voyage(reranker).rerank(QUERY, [], model="any")


def test_what_it_cannot_read_shows_the_servers_reply(reranker):
    with pytest.raises(voyageai.error.APIError, match="401"):
        voyage(reranker, key="wrong").rerank(QUERY, DOCUMENTS, model="any")


def test_what_the_model_cannot_do_is_an_error(reranker):
    with pytest.raises(voyageai.error.InvalidRequestError, match="is a reranker"):
        voyage(reranker).multimodal_embed([["a"]], model="any")


def test_it_embeds_chunks_in_their_documents(default_server):
    documents = [["The cat sat. ", "It was red."], ["Hello world"]]
    reply = voyage(default_server).contextualized_embed(documents, model="any", input_type="document")
    text, spans = "".join(documents[0]), [[0, 13], [13, 24]]
    own = default_server.post("/v1/embeddings", {"input": text, "spans": [spans]}).json()["data"]
    found = [vector for result in reply.results for vector in result.embeddings]
    np.testing.assert_allclose(found[:2], [item["embedding"] for item in own], atol=1e-5)
    assert_own(found[2:], default_server, documents[1])
    assert [result.index for result in reply.results] == [0, 1]
    assert reply.total_tokens > 0
