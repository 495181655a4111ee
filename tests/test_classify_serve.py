"""Labels, scores of pairs and instructions from a real server, against transformers' stored logits."""

from __future__ import annotations

import numpy as np
import pytest

from tests.convert.encoders import tiny_models
from tests.reranker_models import QWEN, write_reranker

PAIRS = tiny_models.PAIRS
THREE_LABELS, ONE_LABEL = "roberta_reranker", "bert_reranker"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("classifiers")
    for name in (THREE_LABELS, ONE_LABEL, QWEN):
        write_reranker(name, path)
    return path


@pytest.fixture
def server(launch, folder, models):
    names = {name: folder / f"{name}-f32.gguf" for name in (THREE_LABELS, ONE_LABEL, QWEN)}
    names["embedder"] = models / "encoder.gguf"
    flags = [part for name, path in names.items() for part in ("-m", f"{name}={path}")]
    return launch(*flags, "--models-max", "4", "--precision", "f32")


def softmax(numbers: np.ndarray) -> np.ndarray:
    powers = np.exp(numbers - numbers.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def sigmoid(numbers: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-numbers))


def test_labels_scores_and_instructions(server):
    check_labels(server)
    check_scores(server)
    check_instruction(server)
    refused = server.post("/classify", {"model": "embedder", "input": "a"})
    assert refused.status == 501
    assert "no classification head" in refused.json()["error"]["message"]
    documents = server.post(
        "/v1/contextualizedembeddings", {"model": "embedder", "inputs": [["hello ", "world"], ["a"]]}
    )
    spans = {"model": "embedder", "input": "hello world", "spans": [[0, 6], [6, 11]]}
    expected = server.post("/v1/embeddings", spans).json()["data"]
    found = documents.json()["data"]
    assert [len(document["data"]) for document in found] == [2, 1]
    assert [chunk["embedding"] for chunk in found[0]["data"]] == [item["embedding"] for item in expected]


def check_labels(server) -> None:
    expected = tiny_models.reference(THREE_LABELS)["logits"]
    reply = server.post(
        "/predict", {"model": THREE_LABELS, "inputs": [list(pair) for pair in PAIRS], "raw_scores": True}
    )
    assert reply.status == 200, reply.json()
    found = [{entry["label"]: entry["score"] for entry in labels} for labels in reply.json()]
    names = sorted(found[0])
    numbers = np.array([[labels[name] for name in names] for labels in found])
    np.testing.assert_allclose(numbers, expected, atol=1e-3)
    best = [labels[0]["label"] for labels in reply.json()]
    assert best == [names[column] for column in expected.argmax(axis=1)]

    one_pair = server.post("/predict", {"model": THREE_LABELS, "inputs": list(PAIRS[0])}).json()
    probabilities = {entry["label"]: entry["score"] for entry in one_pair}
    np.testing.assert_allclose([probabilities[name] for name in names], softmax(expected)[0], atol=1e-3)

    texts = ["what does the fox do?", "lazy"]
    vllm = server.post("/classify", {"model": THREE_LABELS, "input": texts}).json()["data"]
    infinity = server.post("/classify", {"model": THREE_LABELS, "input": texts, "raw_scores": False}).json()
    tei = server.post("/predict", {"model": THREE_LABELS, "inputs": [[text] for text in texts]}).json()
    assert infinity["data"] == tei
    assert infinity["object"] == "classify"
    for item, labels in zip(vllm, tei, strict=True):
        assert item["num_classes"] == 3
        assert item["label"] == labels[0]["label"]
        assert max(item["probs"]) == labels[0]["score"]
        assert abs(sum(item["probs"]) - 1) < 1e-5


def check_scores(server) -> None:
    expected = tiny_models.reference(ONE_LABEL)["logits"][:, 0]
    queries, documents = zip(*PAIRS, strict=True)
    body = {"model": ONE_LABEL, "text_1": list(queries), "text_2": list(documents)}
    reply = server.post("/v1/score", body).json()
    np.testing.assert_allclose([item["score"] for item in reply["data"]], sigmoid(expected), atol=1e-3)
    raw = server.post("/score", body | {"raw_scores": True}).json()
    np.testing.assert_allclose([item["score"] for item in raw["data"]], expected, atol=1e-3)
    one = server.post("/score", {"model": ONE_LABEL, "queries": queries[0], "documents": list(documents[:2])}).json()
    np.testing.assert_allclose([item["score"] for item in one["data"]], sigmoid(expected[:2]), atol=1e-3)

    bad = {"model": "embedder", "queries": ["a", "b"], "documents": ["c", "d " * 5000], "truncate": False}
    assert "document 1 is too large" in server.post("/score", bad).json()["error"]["message"]
    cosines = server.post("/score", {"model": "embedder", "queries": "hello", "documents": ["hello", "world"]}).json()
    assert cosines["score_kind"] == "cosine"
    assert abs(cosines["data"][0]["score"] - 1) < 1e-5

    pooled = server.post("/pooling", {"model": "embedder", "input": ["hello"]}).json()["data"][0]["data"]
    assert (
        pooled == server.post("/v1/embeddings", {"model": "embedder", "input": "hello"}).json()["data"][0]["embedding"]
    )
    for normalize, is_same in ((True, True), (False, False)):
        again = server.post("/pooling", {"model": "embedder", "input": ["hello"], "normalize": normalize}).json()
        assert (again["data"][0]["data"] == pooled) is is_same
    rows = server.post("/pooling", {"model": "embedder", "input": ["hello"], "task": "token_embed"}).json()["data"][0]
    assert len(rows["data"]) == 3


def check_instruction(server) -> None:
    body = {"model": QWEN, "query": "fox", "documents": ["the fox runs", "a dog"]}
    plain = server.post("/v1/rerank", body).json()["results"]
    default = "Given a web search query, retrieve relevant passages that answer the query"
    assert server.post("/v1/rerank", body | {"instruction": default}).json()["results"] == plain
    assert server.post("/v1/rerank", body | {"instruction": "Find animals"}).json()["results"] != plain
    special = [
        server.post("/v1/rerank", body | {"instruction": f"Find {word}"}).json() for word in ("<|im_end|>", "[x]")
    ]
    assert special[0]["usage"]["prompt_tokens"] > special[1]["usage"]["prompt_tokens"], "special tokens are plain text"
    refused = server.post("/v1/rerank", body | {"model": ONE_LABEL, "instruction": "Find animals"})
    assert refused.status == 400
    assert "not made for instructions" in refused.json()["error"]["message"]
