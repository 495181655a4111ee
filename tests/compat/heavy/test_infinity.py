"""The official client of Infinity, infinity_client: embeddings, images, rerank, classify and health."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from infinity_client import AuthenticatedClient, Client
from infinity_client.api.default import classify, embeddings, health, rerank
from infinity_client.models import (
    ClassifyInput,
    OpenAIEmbeddingInputImage,
    OpenAIEmbeddingInputImageModality,
    OpenAIEmbeddingInputText,
    RerankInput,
)

from tests.data.tower_directories import DATA
from tests.server_process import Server, start_server, stop
from tests.tower_models import write_own

FILES = sorted((DATA / "pictures").iterdir())
WIDE = next(file for file in FILES if file.name == "wide.png")
DOCUMENTS = ["a red dog", "the cat sat on the mat", "hello world"]


@pytest.fixture(scope="module")
def clip(cache_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = start_server(cache_dir, "-m", write_own("clip_quick", tmp_path_factory.mktemp("clip")))
    yield server
    stop(server)


def test_it_embeds_texts_and_images(clip):
    reference = np.load(DATA / "clip_quick" / "reference.npz")
    expected = [reference["texts"][0], reference["images"][FILES.index(WIDE)]]
    url = f"data:image/png;base64,{base64.b64encode(WIDE.read_bytes()).decode()}"
    bodies = [
        OpenAIEmbeddingInputText(input_=["a photo of a cat"], model="clip"),
        OpenAIEmbeddingInputImage(input_=[url], model="clip", modality=OpenAIEmbeddingInputImageModality.IMAGE),
    ]
    with Client(base_url=clip.url, raise_on_unexpected_status=True) as client:
        replies = [embeddings.sync(client=client, body=body) for body in bodies]
    for reply, vector in zip(replies, expected, strict=True):
        [item] = reply.data
        found = np.asarray(item.embedding)
        assert found @ vector / np.linalg.norm(found) / np.linalg.norm(vector) > 0.9999
    assert replies[0].usage.total_tokens > 5


def test_it_reranks(reranker):
    body = RerankInput(query="the cat", documents=DOCUMENTS, top_n=2)
    with AuthenticatedClient(base_url=reranker.url, token="right", raise_on_unexpected_status=True) as client:
        reply = rerank.sync(client=client, body=body)
    assert len(reply.results) == 2
    assert reply.results[0].relevance_score >= reply.results[1].relevance_score
    assert reply.usage.total_tokens > 10


def test_it_classifies(reranker):
    with AuthenticatedClient(base_url=reranker.url, token="right", raise_on_unexpected_status=True) as client:
        reply = classify.sync(client=client, body=ClassifyInput(input_=DOCUMENTS))
    assert len(reply.data) == 3
    assert all(0 <= label.score <= 1 for labels in reply.data for label in labels)


def test_it_asks_for_health(clip):
    with Client(base_url=clip.url, raise_on_unexpected_status=True) as client:
        assert health.sync_detailed(client=client).status_code == 200
