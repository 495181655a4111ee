"""TEI's clients, huggingface_hub's InferenceClient first of all, against the real server process."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from huggingface_hub import AsyncInferenceClient, InferenceClient
from huggingface_hub.errors import HfHubHTTPError

from tests.server_process import Server
from tests.test_exactness import assert_close

TEXTS = ["How do I boil an egg?", "안녕하세요 세계", "नमस्ते दुनिया"]
LONG = "word " * 1000


@pytest.fixture(params=["", "/embed"], ids=["root", "embed"])
def client(request, default_server: Server) -> InferenceClient:
    return InferenceClient(model=default_server.url + request.param)


@pytest.mark.parametrize("given", [TEXTS[0], TEXTS])
def test_feature_extraction_gives_the_vectors(client, default_server, given):
    found = client.feature_extraction(given)
    assert found.dtype == np.float32
    assert_close(found, default_server.embed(given), 0.999999)


def test_feature_extraction_with_all_its_fields(client, default_server):
    found = client.feature_extraction(TEXTS, normalize=True, truncate=True, truncation_direction="right", dimensions=64)
    assert_close(found, default_server.embed(TEXTS, dimensions=64), 0.999999)
    raw = client.feature_extraction(TEXTS, normalize=False)
    lengths = np.linalg.norm(raw, axis=1)
    assert (np.abs(lengths - 1) > 0.01).all()
    assert_close(raw / lengths[:, None], default_server.embed(TEXTS), 0.999999)


def test_a_long_text_is_cut_unless_the_client_says_no(client):
    assert client.feature_extraction(LONG).shape == (1, 384)
    with pytest.raises(HfHubHTTPError) as caught:
        client.feature_extraction(LONG, truncate=False)
    assert caught.value.response.status_code == 413
    assert caught.value.response.json()["error_type"] == "Validation"


@pytest.mark.parametrize(
    "arguments", [{"prompt_name": "nonsense"}, {"dimensions": 385}, {"truncation_direction": "up"}]
)
def test_what_cannot_be_done_is_an_error(client, arguments):
    with pytest.raises(HfHubHTTPError) as caught:
        client.feature_extraction("a", **arguments)
    assert caught.value.response.status_code == 422


@pytest.mark.parametrize("path", ["", "/similarity"])
def test_sentence_similarity_is_the_cosine(default_server, path):
    source, *others = default_server.embed(TEXTS)
    found = InferenceClient(model=default_server.url + path).sentence_similarity(TEXTS[0], TEXTS[1:])
    np.testing.assert_allclose(found, np.stack(others) @ source, atol=1e-5)


def test_the_async_client_many_at_once(default_server):
    async def scenario() -> list[np.ndarray]:
        async with AsyncInferenceClient(model=default_server.url) as client:
            return await asyncio.gather(*(client.feature_extraction(f"question {number}") for number in range(16)))

    expected = default_server.embed([f"question {number}" for number in range(16)])
    assert_close(np.concatenate(asyncio.run(scenario())), expected, 0.99999)


def test_a_key_goes_with_the_client(launch, models):
    server = launch("-m", models / "encoder.gguf", "--api-key", "right")
    assert InferenceClient(model=server.url, token="right").feature_extraction("hello").shape == (1, 32)
    with pytest.raises(HfHubHTTPError) as caught:
        InferenceClient(model=server.url, token="wrong").feature_extraction("hello")
    assert caught.value.response.status_code == 401


def test_embed_all_rows_are_those_of_pooling_none(default_server):
    rows = default_server.post("/embed_all", {"inputs": TEXTS[:2]}).json()
    expected = default_server.post("/embedding", {"content": TEXTS[:2], "pooling": "none"}).json()
    for found, item in zip(rows, expected, strict=True):
        assert_close(np.array(found, np.float32), np.array(item["embedding"], np.float32), 0.999999)


def test_tokenize_and_decode_are_each_others_way_back(default_server):
    text = "Café, Hello [SEP] world: नमस्ते 🦊!"
    (tokens,) = default_server.post("/tokenize", {"inputs": text}).json()
    assert [(token["text"], token["special"]) for token in tokens[:2]] == [("[CLS]", True), ("Café", False)]
    assert (tokens[1]["start"], tokens[1]["stop"]) == (0, 4)
    assert tokens[-1]["special"]
    for token in tokens:
        if token["start"] is not None:
            assert text[token["start"] : token["stop"]] == token["text"]
    plain = default_server.post("/tokenize", {"inputs": "hello world"}).json()[0]
    ids = [token["id"] for token in plain]
    assert default_server.post("/decode", {"ids": ids}).json() == ["hello world"]
    both = default_server.post("/decode", {"ids": [ids, ids[1:2]], "skip_special_tokens": False}).json()
    assert (both[0].replace(" ", ""), both[1]) == ("[CLS]helloworld[SEP]", "hello")


def test_info_tells_the_true_limit(default_server):
    info = default_server.get("/info").json()
    assert (info["model_id"], info["max_input_length"]) == ("all-MiniLM-L6-v2", 512)
    assert info["model_type"] == {"embedding": {"pooling": "mean"}}
