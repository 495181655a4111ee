"""The rerank routes over HTTP, with a service that scores by shared words."""

from __future__ import annotations

import asyncio

import pytest

from gguf_embed.errors import DocumentTooLong, NotSupported, Overloaded
from gguf_embed.server.http.body import TRUNCATED_HEADER
from tests.server.fake_service import FakeService, Reply, failing, serving

LLAMA_PATHS = ("/rerank", "/reranking", "/v1/rerank", "/v1/reranking")
PATHS = (*LLAMA_PATHS, "/v2/rerank")
BODY = {"query": "a b", "documents": ["x", "b", "a b"]}


def post(path: str, body: object, service: FakeService | None = None, **options: object) -> Reply:
    async def scenario() -> Reply:
        async with serving(service, **options) as running:
            return await running.post(path, body)

    return asyncio.run(scenario())


@pytest.mark.parametrize("path", PATHS)
def test_every_path_ranks(path):
    reply = post(path, BODY)
    assert reply.status == 200
    assert [item["index"] for item in reply.json["results"]] == [2, 1, 0]
    assert TRUNCATED_HEADER not in reply.headers


@pytest.mark.parametrize("path", LLAMA_PATHS)
def test_texts_get_a_bare_array(path):
    reply = post(path, {"query": "a", "texts": ["x", "a"], "return_text": True, "raw_scores": True})
    assert reply.json == [{"index": 1, "score": 0.0, "text": "a"}, {"index": 0, "score": -1.0, "text": "x"}]


def test_truncation_is_in_a_header_and_is_the_default_on_coheres_route():
    body = {"query": "a", "documents": ["x" * 20, "a"]}
    for path, fields in (("/rerank", {"truncate": True}), ("/v2/rerank", {})):
        reply = post(path, body | fields)
        assert reply.headers[TRUNCATED_HEADER] == "0"
        assert reply.json["truncated"][0]["n_kept"] == 16


@pytest.mark.parametrize(
    ("configured", "fields", "raw"),
    [
        ({}, {"documents": ["a"]}, True),
        ({}, {"texts": ["a"]}, False),
        ({}, {"texts": ["a"], "raw_scores": True}, True),
        ({}, {"documents": ["a"], "texts": True}, True),
        ({"": False}, {"documents": ["a"]}, False),
        ({"": False}, {"documents": ["a"], "raw_scores": True}, True),
        ({"": True}, {"texts": ["a"]}, True),
        ({"tiny-alias": False, "": True}, {"documents": ["a"]}, False),
        ({"another": False}, {"documents": ["a"]}, True),
    ],
)
@pytest.mark.parametrize("path", LLAMA_PATHS)
def test_the_scale_is_the_requests_else_the_operators_else_the_apis(path, configured, fields, raw):
    service = FakeService()
    assert post(path, {"query": "q", **fields}, service, rerank_scores=configured).status == 200
    assert service.reranks[0].raw_scores is raw


def test_a_body_of_teis_has_long_texts_cut_as_in_tei():
    service = FakeService()
    post("/rerank", {"query": "q", "texts": ["a"]}, service)
    post("/rerank", {"query": "q", "documents": ["a"]}, service)
    assert [request.truncate for request in service.reranks] == [True, None]


def test_cohere_promises_probabilities_whatever_the_operator_says():
    service = FakeService()
    post("/v2/rerank", {"query": "q", "documents": ["a"]}, service, rerank_scores={"": True})
    assert service.reranks[0].raw_scores is False


def test_more_documents_than_max_inputs_are_a_400():
    assert post("/rerank", BODY, max_inputs=2).status == 400
    assert post("/rerank", BODY, max_inputs=3).status == 200


@pytest.mark.parametrize(
    ("error", "status"),
    [(DocumentTooLong(3, 20, 16), 400), (NotSupported("no rank head"), 501), (Overloaded("full", 3), 429)],
)
@pytest.mark.parametrize("path", PATHS)
def test_errors_have_the_shape_of_the_path(path, error, status):
    reply = post(path, BODY, failing(error))
    assert reply.status == status
    if path == "/v2/rerank":
        assert list(reply.json) == ["message"]
        assert reply.json["message"].startswith(error.message)
    else:
        assert reply.json["error"]["code"] == status
        assert reply.json["error"]["message"].startswith(error.message)


def test_a_wrong_key_on_coheres_path():
    async def scenario() -> Reply:
        async with serving(api_keys=("right",)) as running:
            return await running.post("/v2/rerank", BODY, headers={"Authorization": "Bearer wrong"})

    reply = asyncio.run(scenario())
    assert (reply.status, list(reply.json)) == (401, ["message"])


def test_scored_documents_are_counted():
    async def scenario() -> str:
        async with serving() as running:
            await running.post("/rerank", BODY)
            return (await running.request("GET", "/metrics")).raw.decode()

    metrics = asyncio.run(scenario())
    assert "gguf_embed_texts_total 3.0" in metrics
    assert 'gguf_embed_requests_total{route="/rerank",status="200"} 1.0' in metrics


@pytest.mark.parametrize("fields", [{"truncation": True}, {"truncation": None}, {"top_k": 3}])
@pytest.mark.parametrize("path", LLAMA_PATHS)
def test_voyages_clients_find_the_results_in_data_too(path, fields):
    reply = post(path, BODY | fields).json
    assert reply["data"] == reply["results"]
    assert [item["index"] for item in reply["data"]] == [2, 1, 0]


def test_other_clients_get_no_data():
    assert "data" not in post("/v1/rerank", BODY).json


@pytest.mark.parametrize("path", ["/v1/rerank", "/v1/embeddings"])
@pytest.mark.parametrize("error", [Overloaded("full", 3), DocumentTooLong(3, 20, 16)])
def test_voyages_clients_find_the_message_in_detail(path, error):
    body = BODY | {"input": "a"}
    reply = post(path, body | {"truncation": True}, failing(error)).json
    assert reply["detail"] == reply["error"]["message"]
    assert "detail" not in post(path, body, failing(error)).json


NVIDIAS = {"query": {"text": "a b"}, "passages": [{"text": "x"}, {"text": "b"}, {"text": "a b"}]}


def test_nvidias_route_ranks_passages_by_logits_whatever_the_operators_scale_is():
    service = FakeService()
    reply = post("/v1/ranking", NVIDIAS, service, rerank_scores={"": False})
    assert [list(ranking) for ranking in reply.json["rankings"]] == [["index", "logit"]] * 3
    assert [ranking["index"] for ranking in reply.json["rankings"]] == [2, 1, 0]
    assert service.reranks[0].raw_scores is True


@pytest.mark.parametrize(("truncate", "wanted"), [("NONE", False), ("END", True), (None, None)])
def test_nvidias_clients_say_whether_passages_are_cut(truncate, wanted):
    service = FakeService()
    post("/v1/ranking", NVIDIAS | {"truncate": truncate}, service)
    assert service.reranks[0].truncate is wanted


@pytest.mark.parametrize("path", [*LLAMA_PATHS, "/v1/ranking", "/v2/rerank"])
@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"passages": [{"text": "a"}, {"text": "b", "image": "data:image/png;base64,AA"}]}, "passages[1]"),
        ({"query": {"text": "a", "image": "data:image/png;base64,AA"}}, "query"),
    ],
)
def test_an_image_is_refused_and_not_ignored(path, changes, where):
    reply = post(path, NVIDIAS | changes)
    assert reply.status == 400
    assert f'\\"{where}\\" has an' in reply.raw.decode()
