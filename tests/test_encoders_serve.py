"""Encoders that only OpenVINO computes, in a real server: their vectors and scores, and jina-embeddings-v3's tasks."""

from __future__ import annotations

import numpy as np
import pytest

from gguf_embed.embedder.client import Client
from gguf_embed.embedder.embedder import Embedder
from gguf_embed.ingest.pool.endpoints import EndpointOptions, EndpointPool
from tests.convert.encoders import tiny_models as tiny
from tests.engines.openvino.graph_models import write_gguf

NAMES = ("jina_v3", "mpnet", "deberta_v2_reranker")
TEXTS = tiny.OWN_TEXTS[:3]


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.process
def test_they_answer_as_the_originals(launch, tmp_path):
    flags = [flag for name in NAMES for flag in ("-m", f"{name}={write_gguf(name, tmp_path / f'{name}.gguf')}")]
    server = launch(*flags, "--precision", "f32")

    def vectors(model: str, **options: object) -> np.ndarray:
        reply = server.post("/v1/embeddings", {"model": model, "input": TEXTS, **options})
        assert reply.status == 200, reply.json()
        return np.array([item["embedding"] for item in reply.json()["data"]])

    for model in ("mpnet", "jina_v3"):
        assert (vectors(model) * unit(tiny.reference(model)["vectors"][:3])).sum(axis=1).min() > 0.9999
    separation = unit(tiny.reference("jina_v3")["vectors_2"][:3])  # this task has no prompt
    for word in ("separation", "clustering"):
        assert (vectors("jina_v3", task=word) * separation).sum(axis=1).min() > 0.9999
    assert (vectors("jina_v3") * separation).sum(axis=1).max() < 0.999
    queries, passages = (vectors("jina_v3", input_type=kind) for kind in ("query", "document"))
    assert (queries * passages).sum(axis=1).max() < 0.999

    with Client(server.url, model="jina_v3") as client:
        assert (client.embed(TEXTS, prompt="clustering") * separation).sum(axis=1).min() > 0.9999
        np.testing.assert_allclose(client.embed(TEXTS, prompt="query"), queries, atol=1e-5)
    pool = EndpointPool([server.url], EndpointOptions(model="jina_v3"))  # prompt "document"
    np.testing.assert_allclose(pool.embed(TEXTS).vectors, passages, atol=1e-5)
    pool.close()

    detailed = {"model": "jina_v3", "content": TEXTS[0], "task": "separation", "return_tokens": True}
    tokens = server.post("/embedding", detailed).json()[0]["tokens"]
    assert tokens["ids"] == tiny.ids_of(tiny.reference("jina_v3"))[0]
    refused = server.post("/v1/embeddings", {"model": "jina_v3", "input": "a", "prompt_name": "poetry"})
    assert refused.status == 400
    assert "retrieval.query" in refused.json()["error"]["message"]

    query, text = tiny.PAIRS[0]
    body = {"model": "deberta_v2_reranker", "query": query, "documents": [text], "raw_scores": True}
    score = server.post("/rerank", body).json()["results"][0]["relevance_score"]
    assert score == pytest.approx(tiny.reference("deberta_v2_reranker")["logits"][0, 0], abs=1e-3)


def test_an_embedder_has_the_tasks_as_prompts(tmp_path, cache_dir):
    expected = unit(tiny.reference("jina_v3")["vectors_2"][:3])
    with Embedder(write_gguf("jina_v3", tmp_path / "m.gguf"), cache=cache_dir, precision="f32") as model:
        assert (model.embed(TEXTS, prompt="separation") * expected).sum(axis=1).min() > 0.9999
        assert (model.embed(TEXTS) * expected).sum(axis=1).max() < 0.999
