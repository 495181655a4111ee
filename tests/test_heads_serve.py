"""Multi-vectors, sparse vectors and MaxSim from a real server."""

from __future__ import annotations

import binascii

import numpy as np
import pytest

from gguf_embed.convert.convert import convert_directory
from gguf_embed.types import Muvera
from gguf_embed.vectors.muvera import encoder_of
from tests.convert.tokenizers.references import reference_tokenizers
from tests.data.head_directories import write_directory
from tests.lfm2_models import ENCODER, TOKENIZER, as_llama_cpp_writes_it, write_lfm2

NAMES = ("colbert_bert", "splade_bert", "bge_m3")
TEXTS = ["The quick brown fox", "hello"]
LONG = "a" * 3000


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("heads")
    for name in NAMES:
        convert_directory(write_directory(name, path / name), path / f"{name}.gguf", "f32", report=lambda line: None)
    return path


@pytest.fixture
def server(launch, folder):
    flags = [part for name in NAMES for part in ("-m", str(folder / f"{name}.gguf"))]
    return launch(*flags, "--models-max", "3", "--precision", "f32", "--engine", "openvino")


def test_every_kind_of_vector(server):
    def embed(model: str, **fields: object) -> list[dict[str, object]]:
        reply = server.post("/v1/embeddings", {"model": model, "input": TEXTS, "truncate": True, **fields})
        assert reply.status == 200, reply.json()
        return reply.json()["data"]

    documents = embed("colbert_bert", return_multivector=True)
    smaller = embed("colbert_bert", return_multivector=True, pool_factor=2)
    for item, whole in zip(smaller, documents, strict=True):
        assert len(item["embedding"]) == 1 + (len(whole["embedding"]) - 1) // 2 < len(whole["embedding"])
    queries = embed("colbert_bert", return_multivector=True, input_type="query", pool_factor=2)
    assert [len(item["embedding"]) for item in queries] == [12, 12]  # filled up
    assert np.allclose(np.linalg.norm(queries[0]["embedding"], axis=1), 1, atol=1e-5)
    native = server.post("/embedding", {"model": "colbert_bert", "content": TEXTS}).json()
    assert native[0]["embedding"] == documents[0]["embedding"]

    scores = server.post(
        "/v1/rerank", {"model": "colbert_bert", "query": TEXTS[1], "documents": TEXTS, "truncate": True}
    ).json()
    assert scores["score_kind"] == "maxsim"
    similarities = [np.array(queries[1]["embedding"]) @ np.array(item["embedding"]).T for item in documents]
    found = {result["index"]: result["relevance_score"] for result in scores["results"]}
    np.testing.assert_allclose([found[0], found[1]], [part.max(axis=1).sum() for part in similarities], rtol=1e-4)

    [sparse, _] = embed("splade_bert", return_sparse=True)
    assert "embedding" not in sparse
    pairs = server.post("/embed_sparse", {"model": "splade_bert", "inputs": TEXTS}).json()
    assert [entry["index"] for entry in pairs[0]] == sparse["sparse_embedding"]["indices"]
    assert [entry["value"] for entry in pairs[0]] == sparse["sparse_embedding"]["values"]

    [both, _] = embed("bge_m3", return_sparse=True, pooling="cls")
    [all_kinds, _] = embed("bge_m3", output=["dense", "sparse", "colbert"], pooling="cls")
    [dense, _] = embed("bge_m3", pooling="cls")
    assert both["sparse_embedding"] == all_kinds["sparse_embedding"]
    np.testing.assert_allclose(all_kinds["embedding"], dense["embedding"], atol=1e-5)
    assert len(all_kinds["multivector"]) > 1

    refused = server.post("/v1/embeddings", {"model": "splade_bert", "input": "a", "return_multivector": True})
    assert refused.status == 501
    assert "'colbert_bert', 'bge_m3'" in refused.json()["error"]["message"]
    bad = {"model": "colbert_bert", "input": "a", "return_multivector": True}
    for fields, message in (
        ({"dimensions": 17}, "the request asks for 17 dimensions, this model has 16"),
        ({"pooling": "mean", "output": ["dense", "colbert"]}, "ask for them in two requests"),
    ):
        refused = server.post("/v1/embeddings", bad | fields)
        assert (refused.status, message in refused.json()["error"]["message"]) == (400, True), refused.json()
    refused = server.post("/v1/embeddings", {"model": "splade_bert", "input": "a", "output": "sparse", "dimensions": 2})
    assert "no dimensions" in refused.json()["error"]["message"]
    for kinds in (["sparse"], ["multivector"], ["dense", "sparse"]):
        body = {"model": "bge_m3", "input": [LONG], "output": kinds, "on_error": "skip", "truncate": False}
        body |= {"pooling": "cls"} if "dense" in kinds else {}
        reply = server.post("/v1/embeddings", body)
        assert reply.status == 200, reply.json()
        failed = reply.json()
        assert (failed["data"], failed["errors"][0]["index"]) == ([], 0)
        reply = server.post("/v1/embeddings", body | {"input": [LONG, "hello"]}).json()
        assert [item["index"] for item in reply["data"]] == [1]

    refused = server.post("/embedding", {"model": "splade_bert", "content": "a", "return_sparse": True})
    assert refused.status == 400
    assert "use POST /v1/embeddings" in refused.json()["error"]["message"]


def test_llama_cpps_file_of_an_lfm2_colbert_serves_multivectors_and_maxsim(launch, tmp_path):
    write_lfm2(tmp_path / "m", ENCODER, reference_tokenizers()[TOKENIZER])
    convert_directory(tmp_path / "m", tmp_path / "converted.gguf", "f32", report=lambda line: None)
    server = launch("-m", as_llama_cpp_writes_it(tmp_path / "converted.gguf", tmp_path / "lfm2.gguf"))
    (entry,) = server.get("/v1/models").json()["data"]
    assert entry["capabilities"] == ["embedding", "rerank", "multivector"]

    def embed(**fields: object) -> list[np.ndarray]:
        reply = server.post("/v1/embeddings", {"input": TEXTS, "return_multivector": True, **fields})
        assert reply.status == 200, reply.json()
        return [np.array(item["embedding"]) for item in reply.json()["data"]]

    documents, queries = embed(), embed(input_type="query")
    assert {rows.shape[1] for rows in documents} == {16}
    assert not np.allclose(documents[1][:2], queries[1][:2], atol=0.01)  # another prefix
    scores = server.post("/v1/rerank", {"query": TEXTS[1], "documents": TEXTS}).json()
    assert scores["score_kind"] == "maxsim"
    found = {result["index"]: result["relevance_score"] for result in scores["results"]}
    expected = [(queries[1] @ rows.T).max(axis=1).sum() for rows in documents]
    np.testing.assert_allclose([found[0], found[1]], expected, rtol=1e-3)


def test_muvera(server):
    settings = {"k_sim": 3, "dim_proj": 5, "r_reps": 2}
    muvera = {"return_multivector": True, "muvera": settings, "truncate": True}
    colbert = {"model": "colbert_bert", "input": TEXTS, "truncate": True, "return_multivector": True}
    for fields in ({}, {"input_type": "query"}):
        whole = server.post("/v1/embeddings", colbert | fields).json()["data"]
        found = server.post("/v1/embeddings", colbert | muvera | fields).json()["data"]
        encoder = encoder_of(Muvera(**settings), 16)
        for item, rows in zip(found, whole, strict=True):
            expected = encoder.encode(np.array(rows["embedding"], np.float32), is_query=bool(fields))
            np.testing.assert_allclose(item["embedding"], expected, atol=1e-5)
    packed = {"muvera": True, "encoding_format": "base64", "pool_factor": 2}
    [item, _] = server.post("/v1/embeddings", colbert | packed).json()["data"]
    assert len(binascii.a2b_base64(item["embedding"])) == 4 * Muvera().n_dims

    for model, fields, message in (
        ("splade_bert", {}, "no head for multivector"),
        ("colbert_bert", {"dimensions": 8}, "how many numbers a vector has (80)"),
        ("colbert_bert", {"muvera": {"dim_proj": 17}}, "set dim_proj to 16 or less"),
        ("colbert_bert", {"muvera": {"k_sim": 10, "r_reps": 65}}, "1,064,960 numbers per vector, the limit is 65,536"),
    ):
        refused = server.post("/v1/embeddings", {"model": model, "input": "a"} | muvera | fields)
        assert message in refused.json()["error"]["message"], refused.json()
    refused = server.post("/embedding", {"model": "colbert_bert", "content": "a"} | muvera)
    assert (refused.status, "use POST /v1/embeddings" in refused.json()["error"]["message"]) == (400, True)

    body = {"model": "bge_m3", "input": ["hello", LONG, "a"], "on_error": "skip", "truncate": False, "pooling": "cls"}
    muvera["truncate"] = False
    both = server.post("/v1/embeddings", body | muvera | {"output": ["dense", "multivector"]}).json()
    assert [item["index"] for item in both["data"]] == [0, 2]
    assert [(len(item["embedding"]), len(item["muvera"])) for item in both["data"]] == [(64, 80)] * 2


BM25_WAY_OUT = (
    "model 'bm25' gives sparse vectors and no others: "
    'send "return_sparse": true to POST /v1/embeddings, or use POST /embed_sparse'
)


@pytest.mark.parametrize("flags", [(), ("--isolate",)])
def test_bm25_needs_no_model_file(launch, flags):
    pytest.importorskip("py_rust_stemmers")
    server = launch("-m", "bm25", *flags)
    [[cat, mat]] = server.post("/embed_sparse", {"inputs": ["the cat and the mat, a cat"]}).json()
    length = 1.2 * (0.25 + 0.75 * 3 / 256)
    weights = [1 * 2.2 / (1 + length), 2 * 2.2 / (2 + length)]
    assert sorted((cat["value"], mat["value"])) == pytest.approx(weights, rel=1e-5)
    query = {"input": "cats", "return_sparse": True, "input_type": "query"}
    [item] = server.post("/v1/embeddings", query).json()["data"]
    assert item["sparse_embedding"]["values"] == [1.0]
    assert item["sparse_embedding"]["indices"][0] in (cat["index"], mat["index"])
    for more in ({}, {"pooling": "mean"}, {"output": ["dense", "sparse"]}):
        refused = server.post("/v1/embeddings", {"input": "cat", **more})
        assert (refused.status, refused.json()["error"]["message"]) == (501, BM25_WAY_OUT)
    assert server.post("/embedding", {"content": "cat"}).json()["error"]["message"] == BM25_WAY_OUT
    assert server.post("/embed", {"inputs": "cat"}).json()["error"] == BM25_WAY_OUT
    ranking = {"query": "cat", "documents": ["a cat"], "method": "embedding"}
    assert server.post("/v1/rerank", ranking).json()["error"]["message"] == BM25_WAY_OUT
    assert server.get("/v1/models").json()["data"][0]["capabilities"] == ["sparse"]
    tokens = server.post("/tokenize", {"content": "the cat"}).json()["tokens"]
    assert server.post("/detokenize", {"tokens": tokens}).status == 400
    [failed] = server.post("/v1/embeddings", query | {"input": ["the"], "on_error": "skip"}).json()["errors"]
    assert "no word" in failed["message"]
