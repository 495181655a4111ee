"""NVIDIA's clients for LangChain embed and rerank."""

from __future__ import annotations

import asyncio

import pytest
from langchain_core.documents import Document
from langchain_nvidia_ai_endpoints import NVIDIAEmbeddings, NVIDIARerank

from tests.compat.heavy.comparing import assert_own
from tests.server_process import Server

TEXTS = ["How do I boil an egg?", "안녕하세요 세계", "🦊" * 20, "the price of eggs"]
TOO_LONG = "long " * 1000
QUERY = "the cat"
DOCUMENTS = ["a red dog", "the cat sat on the mat", "hello world"]


def nvidia_reranker(server: Server, **fields: object) -> NVIDIARerank:
    return NVIDIARerank(base_url=server.url + "/v1", **{"api_key": "right", "model": "reranker"} | fields)


def passages(*texts: str) -> list[Document]:
    return [Document(page_content=text) for text in texts]


@pytest.mark.parametrize("prefix", ["", "/v1"])
def test_it_embeds_documents_and_queries(default_server, prefix):
    model = NVIDIAEmbeddings(base_url=default_server.url + prefix, model="all-MiniLM-L6-v2", max_batch_size=3)
    assert_own(model.embed_documents(TEXTS), default_server, TEXTS)
    assert_own([model.embed_query(TEXTS[0])], default_server, TEXTS[:1])
    assert_own(asyncio.run(model.aembed_documents(TEXTS)), default_server, TEXTS)


@pytest.mark.filterwarnings("ignore:Default model is set as")
def test_it_finds_the_model_by_itself(default_server):
    model = NVIDIAEmbeddings(base_url=default_server.url)
    assert model.model == "all-MiniLM-L6-v2"
    assert_own(model.embed_documents(TEXTS), default_server, TEXTS)


def test_it_says_whether_a_text_is_cut(default_server):
    model = NVIDIAEmbeddings(base_url=default_server.url, model="all-MiniLM-L6-v2")
    with pytest.raises(Exception, match="too large"):
        model.embed_documents([TOO_LONG])
    for side in ("END", "START"):
        cut = model.model_copy(update={"truncate": side})
        assert_own(cut.embed_documents([TOO_LONG]), default_server, ["long " * 510])


def test_it_cuts_dimensions(default_server):
    model = NVIDIAEmbeddings(base_url=default_server.url, model="all-MiniLM-L6-v2", dimensions=64)
    assert len(model.embed_query("a")) == 64


@pytest.mark.parametrize("max_batch_size", [2, 32])
def test_it_reranks(reranker, max_batch_size):
    model = nvidia_reranker(reranker, top_n=2, max_batch_size=max_batch_size)
    ranked = model.compress_documents(passages(*DOCUMENTS), QUERY)
    body = {"query": QUERY, "documents": DOCUMENTS, "top_n": 2}
    own = reranker.post("/v1/rerank", body, Authorization="Bearer right").json()["results"]
    assert [document.page_content for document in ranked] == [DOCUMENTS[item["index"]] for item in own]
    scores = [document.metadata["relevance_score"] for document in ranked]
    assert scores == pytest.approx([item["relevance_score"] for item in own], abs=1e-5)
    again = asyncio.run(model.acompress_documents(passages(*DOCUMENTS), QUERY))
    assert [document.page_content for document in again] == [document.page_content for document in ranked]


def test_it_says_whether_a_passage_is_cut(reranker):
    long = passages("dog " * 100)
    for refusing in (nvidia_reranker(reranker), nvidia_reranker(reranker, truncate="NONE")):
        with pytest.raises(Exception, match="too large"):
            refusing.compress_documents(long, QUERY)
    assert nvidia_reranker(reranker, truncate="END").compress_documents(long, QUERY)


def test_its_images_are_an_error(reranker):
    pictured = Document(page_content="a cat", metadata={"image": "data:image/png;base64,AA=="})
    with pytest.raises(Exception, match="only text is ranked"):
        nvidia_reranker(reranker).compress_documents([pictured], QUERY)


def test_a_wrong_key_is_its_401(reranker):
    with pytest.raises(Exception, match="401"):
        nvidia_reranker(reranker, api_key="wrong").compress_documents(passages("a"), QUERY)
