"""The official cohere client reranks."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import cohere
import pytest

QUERY = "the cat"
DOCUMENTS = ["a red dog", "the cat sat on the mat", "hello world"]


@pytest.fixture
def client(reranker) -> Iterator[cohere.ClientV2]:
    with cohere.ClientV2("right", base_url=reranker.url) as opened:
        yield opened


@pytest.fixture(scope="module")
def raw(reranker) -> list[float]:
    """The logits in the order of the documents."""
    body = {"query": QUERY, "documents": DOCUMENTS}
    results = reranker.post("/rerank", body, Authorization="Bearer right").json()["results"]
    return [item["relevance_score"] for item in sorted(results, key=lambda item: item["index"])]


def test_it_gets_the_best_documents(client, raw):
    reply = client.rerank(model="rerank-v3.5", query=QUERY, documents=DOCUMENTS, top_n=2)
    scores = [item.relevance_score for item in reply.results]
    assert len(scores) == 2
    assert 1 >= scores[0] >= scores[1] >= 0
    assert reply.results[0].index == max(range(3), key=raw.__getitem__)
    assert reply.id
    assert reply.meta.billed_units.search_units == 1
    assert reply.meta.tokens.input_tokens > 10
    assert reply.meta.warnings is None


def test_it_sees_what_was_cut(client):
    reply = client.rerank(model="any", query=QUERY, documents=["dog " * 100, "cat " * 20], max_tokens_per_doc=10)
    assert [warning.split(" was cut")[0] for warning in reply.meta.warnings] == ["document 0", "document 1"]


def test_its_async_client(reranker):
    async def scenario() -> list[int]:
        async with cohere.AsyncClientV2("right", base_url=reranker.url) as client:
            asked = (client.rerank(model="any", query=QUERY, documents=DOCUMENTS) for _ in range(8))
            return [reply.results[0].index for reply in await asyncio.gather(*asked)]

    assert len(set(asyncio.run(scenario()))) == 1


def test_its_older_client_gets_raw_scores_and_documents(reranker, raw):
    documents = [{"text": text, "id": str(number)} for number, text in enumerate(DOCUMENTS)]
    with cohere.Client("right", base_url=reranker.url) as client:
        reply = client.rerank(model="any", query=QUERY, documents=documents, return_documents=True)
    assert [item.relevance_score for item in reply.results] == pytest.approx(sorted(raw, reverse=True), abs=1e-6)
    assert [item.document.text for item in reply.results] == [DOCUMENTS[item.index] for item in reply.results]


@pytest.mark.parametrize(
    ("key", "fields", "error"),
    [
        ("wrong", {}, cohere.UnauthorizedError),
        ("right", {"documents": []}, cohere.BadRequestError),
        ("right", {"query": "cat " * 100}, cohere.BadRequestError),
    ],
)
def test_it_raises_its_own_errors(reranker, key, fields, error):
    with cohere.ClientV2(key, base_url=reranker.url) as client, pytest.raises(error) as caught:
        client.rerank(**{"model": "any", "query": QUERY, "documents": DOCUMENTS} | fields)
    assert list(caught.value.body) == ["message"]


def test_a_model_that_cannot_rerank_is_its_not_implemented(launch, models):
    url = launch("-m", models / "encoder.gguf").url
    with cohere.ClientV2("unused", base_url=url) as client, pytest.raises(cohere.NotImplementedError) as caught:
        client.rerank(model="any", query=QUERY, documents=DOCUMENTS, request_options={"max_retries": 0})
    assert "has no rank head" in caught.value.body["message"]
