"""Rerank with a real server process: alongside other work, with several models, and in the banner."""

from __future__ import annotations

import json
import shlex
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from gguf_embed.types import Pooling
from tests.gguf_models import write_tiny_encoder


def test_a_thousand_documents_do_not_hold_up_one_query(launch, tmp_path):
    path = write_tiny_encoder(
        tmp_path / "r.gguf", n_embd=256, n_head=8, n_ff=1024, n_ctx=256, pooling=Pooling.RANK, rank_head=True
    )
    server = launch("-m", path)
    documents = [f"the cat sat on the mat {number} " + "hello world " * 40 for number in range(1000)]
    server.post("/embedding", {"content": "warm", "pooling": "mean"})
    with ThreadPoolExecutor(1) as thread:
        bulk = thread.submit(server.post, "/rerank", {"query": "cat", "documents": documents})
        deadline_s = time.monotonic() + 20
        while server.get("/ready").json()["queued_texts"] < 500:
            assert not bulk.done()
            assert time.monotonic() < deadline_s
        left = []
        for path, body in [
            ("/rerank", {"query": "cat", "documents": ["a dog"]}),
            ("/embedding", {"content": "one text", "pooling": "mean"}),
            ("/rerank", {"query": "cat", "documents": ["a red dog"]}),
        ]:
            assert server.post(path, body).status == 200
            left.append(server.get("/ready").json()["queued_texts"])
        assert min(left) > 100, "the query waited for the documents"
        assert len(bulk.result().json()["results"]) == 1000


def test_a_model_without_a_rank_head_names_those_that_can(launch, models):
    server = launch("-m", f"emb={models / 'encoder.gguf'}", "-m", f"ranker={models / 'reranker.gguf'}")
    body = {"query": "the cat", "documents": ["a dog", "the cat"]}
    reply = server.post("/rerank", body | {"model": "emb"})
    assert reply.status == 501
    message = reply.json()["error"]["message"]
    assert "'ranker'" in message
    ranked = server.post("/rerank", body | {"model": "ranker"}).json()
    assert ranked["model"] == "ranker"
    cosines = server.post("/rerank", body | {"model": "emb", "method": "embedding"}).json()
    assert (cosines["score_kind"], cosines["results"][0]["index"]) == ("cosine", 1)


def test_props_and_models_tell_scores_from_dimensions(launch, models):
    server = launch("-m", models / "reranker.gguf")
    props = server.get("/props").json()
    assert (props["n_embd"], props["n_scores"], props["labels"]) == (32, 1, [])
    (entry,) = server.get("/v1/models").json()["data"]
    assert (entry["meta"]["n_embd"], entry["meta"]["n_scores"]) == (32, 1)
    assert entry["capabilities"] == ["embedding", "rerank"]
    assert server.embed("text", pooling="cls").shape == (1, 32)


def test_scores_vectors_and_token_rows_come_from_one_loaded_model(launch, models):
    server = launch("-m", models / "reranker.gguf")
    (score,) = server.post("/rerank", {"query": "cat", "documents": ["a dog"]}).json()["results"]
    assert server.embed("a cat", pooling="mean").shape == (1, 32)
    (item,) = server.post("/embedding", {"content": "a cat", "pooling": "none"}).json()
    assert np.shape(item["embedding"]) == (4, 32)
    (again,) = server.post("/rerank", {"query": "cat", "documents": ["a dog"]}).json()["results"]
    assert again == score
    assert 'gguf_embed_model_loads_total{outcome="ok"} 1.0' in server.get("/metrics").body.decode()


@pytest.mark.parametrize(("path", "body"), [
    ("/v1/embeddings", {"input": "a cat"}),
    ("/api/embed", {"model": "reranker", "input": "a cat"}),
    ("/v2/embed", {"model": "reranker", "texts": ["a cat"], "input_type": "classification"}),
])  # fmt: skip
def test_one_number_is_never_passed_off_as_a_vector(launch, models, path, body):
    reply = launch("-m", models / "reranker.gguf").post(path, body)
    assert reply.status == 501
    assert "is a reranker" in reply.body.decode()


def test_the_banner_shows_that_it_is_a_reranker_and_its_curl_line_works(launch, models):
    server = launch("-m", models / "reranker.gguf")
    assert "reranker: reranker, 1 score per document, up to " in "\n".join(server.banner)
    *_, address, _, body = shlex.split(server.banner[-1])
    assert address == f"{server.url}/rerank"
    assert len(server.post("/rerank", json.loads(body)).json()["results"]) == 2
    assert server.banner[-1] in server.get("/").body.decode()


@pytest.mark.parametrize("path", ["/rerank", "/v2/rerank"])
def test_odd_documents_never_break_it(launch, models, path):
    server = launch("-m", models / "reranker.gguf")
    documents = ["", " ", "\x00", "\ud800", "[SEP] [CLS]", "🦊" * 9, "a", "a"]
    reply = server.post(path, {"query": "the [SEP] cat \ud83d", "documents": documents})
    scores = [item["relevance_score"] for item in reply.json()["results"]]
    assert len(scores) == 8
    assert np.isfinite(scores).all()
