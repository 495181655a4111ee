"""Frameworks that take embeddings by their own protocols, with the real packages."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from gguf_embed.errors import ConfigError

DOCUMENTS = ["the cat sat on a mat", "hello world", "red dogs"]


@pytest.fixture
def prompted(open_model):
    """A model with prompts, so that queries and documents differ."""
    return open_model(prompts={"query": "the cat: ", "document": "a red "})


def nearest(model, query):
    """The documents in the order of brute force."""
    scores = model.similarity(model.embed_query(query), model.embed_documents(DOCUMENTS))[0]
    return [DOCUMENTS[index] for index in np.argsort(-scores)]


def test_langchains_stores_find_what_brute_force_finds(prompted):
    pytest.importorskip("langchain_core")
    from langchain_core.embeddings import Embeddings
    from langchain_core.vectorstores import InMemoryVectorStore

    embeddings = prompted.langchain()
    assert isinstance(embeddings, Embeddings)
    store = InMemoryVectorStore.from_texts(DOCUMENTS, embeddings)
    assert [found.page_content for found in store.similarity_search("dogs", k=3)] == nearest(prompted, "dogs")
    found = asyncio.run(store.asimilarity_search("dogs", k=3))
    assert [document.page_content for document in found] == nearest(prompted, "dogs")


def test_langchain_gets_lists_of_numbers(prompted):
    pytest.importorskip("langchain_core")
    embeddings = prompted.langchain()
    (vector,), query = embeddings.embed_documents(["cat"]), embeddings.embed_query("cat")
    assert {type(vector), type(vector[0]), type(query), type(query[0])} == {list, float}
    np.testing.assert_allclose(vector, prompted.embed("a red cat"), atol=1e-6)
    np.testing.assert_allclose(asyncio.run(embeddings.aembed_query("cat")), prompted.embed("the cat: cat"), atol=1e-6)
    assert len(asyncio.run(embeddings.aembed_documents(DOCUMENTS))) == 3


def test_a_model_itself_will_do_where_langchain_asks_for_no_class(prompted):
    pytest.importorskip("langchain_core")
    from langchain_core.vectorstores import InMemoryVectorStore

    store = InMemoryVectorStore(prompted)
    store.add_texts(DOCUMENTS)
    assert store.similarity_search("dogs", k=1)[0].page_content == nearest(prompted, "dogs")[0]


@pytest.mark.filterwarnings("default")
def test_chromas_collections_find_what_brute_force_finds(prompted, tmp_path):
    chromadb = pytest.importorskip("chromadb")
    from chromadb.config import Settings

    from gguf_embed.embedder.chroma import ChromaEmbeddingFunction

    database = chromadb.PersistentClient(str(tmp_path), settings=Settings(anonymized_telemetry=False))
    collection = database.create_collection("docs", embedding_function=ChromaEmbeddingFunction(prompted))
    collection.add(ids=["0", "1", "2"], documents=DOCUMENTS)
    expected = nearest(prompted, "dogs")
    assert collection.query(query_texts=["dogs"], n_results=3)["documents"] == [expected]
    again = database.get_collection("docs", embedding_function=ChromaEmbeddingFunction(prompted))
    assert again.query(query_texts=["dogs"], n_results=3)["documents"] == [expected]
    with pytest.raises(ConfigError, match=r"opened without its model: pass embedding_function="):
        database.get_collection("docs").query(query_texts=["dogs"])


@pytest.mark.filterwarnings("default")
def test_haystacks_pipelines_find_what_brute_force_finds(prompted):
    pytest.importorskip("haystack")
    from haystack import Document, Pipeline
    from haystack.components.retrievers.in_memory import InMemoryEmbeddingRetriever
    from haystack.document_stores.in_memory import InMemoryDocumentStore

    from gguf_embed.embedder.haystack import GgufDocumentEmbedder, GgufTextEmbedder

    store = InMemoryDocumentStore(embedding_similarity_function="cosine")
    written = [Document(content=text, meta={"title": "the mat"}) for text in DOCUMENTS]
    store.write_documents(GgufDocumentEmbedder(prompted).run(documents=written)["documents"])
    search = Pipeline()
    search.add_component("embedder", GgufTextEmbedder(prompted))
    search.add_component("retriever", InMemoryEmbeddingRetriever(store))
    search.connect("embedder.embedding", "retriever.query_embedding")
    found = search.run({"embedder": {"text": "dogs"}})["retriever"]["documents"]
    assert [document.content for document in found] == nearest(prompted, "dogs")
    titled = GgufDocumentEmbedder(prompted, meta_fields_to_embed=["title", "none"])
    (document,) = asyncio.run(titled.run_async(documents=written[:1]))["documents"]
    np.testing.assert_allclose(document.embedding, prompted.embed(f"a red the mat\n{DOCUMENTS[0]}"), atol=1e-6)
    assert written[0].embedding is None
    with pytest.raises(ConfigError, match="cannot be saved"):
        search.to_dict()
