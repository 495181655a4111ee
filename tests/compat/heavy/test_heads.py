"""Haystack's components for Text Embeddings Inference get sparse vectors from `/embed_sparse`."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from haystack import Document
from haystack.dataclasses import SparseEmbedding
from haystack_integrations.components.embedders.huggingface_api import (
    HuggingFaceTEISparseDocumentEmbedder,
    HuggingFaceTEISparseTextEmbedder,
)

from tests.data.head_directories import write_directory
from tests.server_process import Server, command, start_server, stop

TEXTS = ["The quick brown fox", "hello", "hello cat"]


@pytest.fixture(scope="module")
def splade(cache_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("splade")
    source, model = write_directory("splade_bert", folder / "original"), folder / "splade.gguf"
    subprocess.run(command("convert", source, "-o", model), check=True, capture_output=True)
    server = start_server(cache_dir, "-m", model, "--precision", "f32")
    yield server
    stop(server)


def check(found: SparseEmbedding | None, server: Server, text: str) -> None:
    [own] = server.post("/v1/embeddings", {"input": text, "output": ["sparse"]}).json()["data"]
    assert found is not None
    assert found.indices == own["sparse_embedding"]["indices"]
    np.testing.assert_allclose(found.values, own["sparse_embedding"]["values"], atol=1e-5)
    assert found.indices


def test_haystack_embeds_queries(splade):
    embedder = HuggingFaceTEISparseTextEmbedder(api_base_url=splade.url)
    check(embedder.run(TEXTS[0])["sparse_embedding"], splade, TEXTS[0])


def test_haystack_embeds_documents(splade):
    embedder = HuggingFaceTEISparseDocumentEmbedder(api_base_url=splade.url, batch_size=2)
    found = embedder.run([Document(content=text) for text in TEXTS])["documents"]
    for document, text in zip(found, TEXTS, strict=True):
        check(document.sparse_embedding, splade, text)
