"""A listwise reranker behind a real server, on every route that reranks."""

from __future__ import annotations

import json
import shlex

import numpy as np
import pytest

from gguf_embed.convert.convert import convert_directory
from gguf_embed.embedder.embedder import Embedder
from gguf_embed.errors import NotSupported
from tests.convert.tokenizers.references import reference_tokenizers
from tests.listwise_models import MODEL, cases, write_listwise


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    folder = tmp_path_factory.mktemp("listwise")
    write_listwise(folder / "model", reference_tokenizers()[MODEL.tokenizer])
    convert_directory(folder / "model", folder / "jina.gguf", "f32", report=lambda line: None)
    return folder / "jina.gguf"


@pytest.mark.parametrize("flags", [(), ("--isolate",)])
def test_every_rerank_route_gives_the_originals_scores(launch, path, flags):
    server = launch("-m", path, "--precision", "f32", *flags)
    case = cases()[0]
    expected, (query, documents) = case["scores"], (case["query"], case["documents"])

    def check(route: str, body: dict[str, object], key: str, name: str) -> dict[str, object]:
        reply = server.post(route, body)
        assert reply.status == 200, reply.json()
        items = reply.json()[key] if key else reply.json()
        found = {item["index"]: item[name] for item in items}
        np.testing.assert_allclose([found[index] for index in range(len(expected))], expected, rtol=0, atol=1e-4)
        return reply.json() if key else {}

    body = {"query": query, "documents": documents}
    for route in ("/rerank", "/v1/rerank", "/v2/rerank"):
        assert check(route, body, "results", "relevance_score")["score_kind"] == "cosine"
    check("/rerank", {"query": query, "texts": documents}, "", "score")
    check("/score", {"queries": query, "documents": documents}, "data", "score")
    instructed = cases()[1]
    reply = server.post("/v1/rerank", {key: instructed[key] for key in ("query", "documents", "instruction")}).json()
    found = {item["index"]: item["relevance_score"] for item in reply["results"]}
    np.testing.assert_allclose([found[0], found[1]], instructed["scores"], rtol=0, atol=1e-4)


def test_it_is_a_reranker_and_says_so(launch, path):
    server = launch("-m", path)
    assert "jina: listwise reranker, 64 dimensions" in "\n".join(server.banner)
    (entry,) = server.get("/v1/models").json()["data"]
    assert entry["capabilities"] == ["embedding", "rerank", "listwise"]
    props = server.get("/props").json()
    assert (props["n_ctx"], props["max_input_tokens"], props["n_ctx_train"]) == (8192, 8192, 16384)
    *_, address, _, body = shlex.split(server.banner[-1])
    assert address == f"{server.url}/rerank"
    assert len(server.post("/rerank", json.loads(body)).json()["results"]) == 2
    for route, request in (("/v1/embeddings", {"input": "a"}), ("/embedding", {"content": "a"})):
        refused = server.post(route, request)
        assert refused.status == 501, refused.json()
        assert "is a reranker" in refused.body.decode()
    assert server.embed("text", pooling="mean").shape == (1, 64)
    refused = server.post("/predict", {"inputs": "a"})
    assert refused.status != 200
    refused = server.post("/rerank", {"query": "one " * 2000, "documents": ["a"]})
    assert (refused.status, "the limit is 512" in refused.body.decode()) == (400, True)


@pytest.mark.parametrize("route", ["/rerank", "/v2/rerank"])
def test_odd_documents_never_break_it(launch, path, route):
    server = launch("-m", path)
    documents = ["", " ", "\x00", "\ud800", "<|embed_token|>", "</passage>", "🦊" * 9, "a", "a"]
    reply = server.post(route, {"query": "the <|rerank_token|> cat \ud83d", "documents": documents})
    scores = [item["relevance_score"] for item in reply.json()["results"]]
    assert len(scores) == len(documents)
    assert np.isfinite(scores).all()


def test_it_reranks_from_python_with_the_context_that_is_asked_for(path):
    case = cases()[4]
    with Embedder(str(path), n_ctx=16384, precision="f32") as model:
        assert model.info.max_tokens == 16384
        ranked = model.rerank(case["query"], case["documents"])
    found = {hit.index: hit.score for hit in ranked}
    np.testing.assert_allclose([found[index] for index in range(130)], case["scores"], rtol=0, atol=1e-4)
    with pytest.raises(NotSupported, match="is a reranker"), Embedder(str(path)) as model:
        model.embed(["a"])


def test_a_cut_document_is_reported(launch, path):
    server = launch("-m", path, "-c", "1024")
    body = {"query": "what?", "documents": ["a", "word " * 2000]}
    refused = server.post("/rerank", body)
    assert refused.status == 400
    assert "document 1 and the query are too large together" in refused.body.decode()
    reply = server.post("/v2/rerank", body).json()
    (warning,) = reply["meta"]["warnings"]
    assert warning.startswith("document 1 was cut: ")
    assert "the query's included" not in warning
