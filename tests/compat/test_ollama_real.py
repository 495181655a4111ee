"""The official ollama client and langchain-ollama against the real server process."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from datetime import UTC, datetime

import numpy as np
import ollama
import pytest
from langchain_ollama import OllamaEmbeddings

from tests.model_store.fake_hub import FakeHub, serve
from tests.server_process import Server, start_server, stop
from tests.test_exactness import assert_close

pytestmark = pytest.mark.process

MINILM = "all-minilm"  # Ollama's name for the default model
SKY = "why is the sky blue?"
TEXTS = ["How do I boil an egg?", "안녕하세요 세계", "नमस्ते दुनिया", "🦊" * 20, ""]

# The first ten numbers that Ollama's docs/api.md shows for this text and model.
DOCUMENTED = (
    *(0.010071029, -0.0017594862, 0.05007221, 0.04692972, 0.054916814),
    *(0.008599704, 0.105441414, -0.025878139, 0.12958129, 0.031952348),
)


@pytest.fixture(scope="module")
def client(default_server: Server) -> Iterator[ollama.Client]:
    with ollama.Client(host=default_server.url) as opened:
        yield opened


@pytest.fixture(scope="module")
def folder_server(cache_dir, models) -> Iterator[Server]:
    """Serves a folder of tiny models: none is loaded before it is asked for."""
    server = start_server(cache_dir, "--models-dir", models)
    yield server
    stop(server)


@pytest.fixture
def folder(folder_server: Server) -> Iterator[ollama.Client]:
    with ollama.Client(host=folder_server.url) as opened:
        yield opened


def rows(reply: ollama.EmbedResponse) -> np.ndarray:
    """float32[n_texts, n_dims]."""
    return np.array(reply.embeddings, np.float32)


def test_the_vector_is_the_one_ollama_documents(client):
    reply = client.embed(MINILM, SKY.capitalize())
    assert len(reply.embeddings[0]) == 384
    assert reply.embeddings[0][:10] == pytest.approx(DOCUMENTED, abs=1e-3)


def test_tokens_are_counted_as_ollama_counts_them(client):
    assert client.embed(MINILM, SKY).prompt_eval_count == 8
    assert client.embed(MINILM, [SKY, "why is the grass green?"]).prompt_eval_count == 16


def test_the_vectors_are_those_of_the_openai_endpoint(client, default_server):
    assert_close(rows(client.embed(MINILM, TEXTS)), default_server.embed(TEXTS), 0.999999)
    assert_close(
        rows(client.embed(MINILM, TEXTS, dimensions=100)), default_server.embed(TEXTS, dimensions=100), 0.999999
    )
    older = np.array([client.embeddings(MINILM, SKY).embedding], np.float32)
    assert_close(older, default_server.embed([SKY]), 0.999999)


@pytest.mark.parametrize("n_ctx", [1, 3, 4])
def test_the_smallest_context_is_ollamas_which_leaves_two_words(client, n_ctx):
    cut = client.embed(MINILM, SKY, options={"num_ctx": n_ctx})
    assert cut.prompt_eval_count == 4
    assert_close(rows(cut), rows(client.embed(MINILM, "why is")), 0.99999)


def test_no_context_is_an_error(client):
    with pytest.raises(ollama.ResponseError, match="num_ctx") as caught:
        client.embed(MINILM, SKY, options={"num_ctx": 0})
    assert caught.value.status_code == 400


def test_a_text_that_is_too_long_is_cut_or_refused_as_asked(client, default_server):
    texts = ["long " * 1000, "short"]
    reply = default_server.post("/api/embed", {"model": MINILM, "input": texts})
    assert reply.headers["X-Gguf-Embed-Truncated"] == "0"
    assert reply.json()["truncated"] == [{"index": 0, "n_tokens": 1002, "n_kept": 512, "n_dropped": 490}]
    with pytest.raises(ollama.ResponseError, match="the input length exceeds the context length") as caught:
        client.embed(MINILM, texts, truncate=False)
    assert caught.value.status_code == 400


def test_ollama_toolkits_embedding_example_finds_its_field(default_server):
    body = {"model": MINILM, "prompt": SKY, "num_ctx": 512, "temperature": 0.7}
    found = default_server.post("//api/embed", body).json()["embedding"]
    assert_close(np.array([found], np.float32), default_server.embed([SKY]), 0.999999)


def test_many_at_once_by_the_async_client(default_server):
    texts = [f"question {number}" for number in range(32)]

    async def scenario() -> np.ndarray:
        async with ollama.AsyncClient(host=default_server.url) as client:
            replies = await asyncio.gather(*(client.embed(MINILM, text) for text in texts))
            return np.concatenate([rows(reply) for reply in replies])

    assert_close(asyncio.run(scenario()), default_server.embed(texts), 0.99999)


def test_langchain_sync_and_async(default_server):
    model = OllamaEmbeddings(model=MINILM, base_url=default_server.url, validate_model_on_init=True)
    with model._client:
        found = np.array(model.embed_documents(TEXTS), np.float32)
        assert model.embed_query(TEXTS[0]) == pytest.approx(found[0].tolist(), abs=1e-4)

    async def scenario() -> list[list[float]]:
        async with model._async_client:
            return await model.aembed_documents(TEXTS)

    expected = default_server.embed(TEXTS)
    assert_close(found, expected, 0.999999)
    assert_close(np.array(asyncio.run(scenario()), np.float32), expected, 0.999999)


def test_models_of_a_folder_are_loaded_when_asked_for_and_unloaded_when_told(folder):
    listed = {model.model: model for model in folder.list().models}
    assert {"encoder:latest", "decoder:latest"} <= set(listed)
    assert folder.show("Encoder").modelinfo["general.architecture"] == "bert"
    assert folder.ps().models == []
    reply = folder.embed("encoder", ["alpha", "beta"], keep_alive=-1)
    assert len(reply.embeddings[0]) == 32
    assert reply.load_duration > 0
    assert folder.embed("decoder:latest", "alpha", keep_alive="10m").embeddings
    never, later = folder.ps().models
    assert (never.model, later.model) == ("encoder:latest", "decoder:latest")
    assert never.expires_at.year > 2100
    assert 500 < (later.expires_at - datetime.now(UTC)).total_seconds() < 601
    assert int(never.size) > 0
    for name in ("encoder", "decoder"):
        assert folder.embed(name, keep_alive=0).embeddings == []
    assert folder.ps().models == []


@pytest.mark.parametrize("call", ["embed", "embeddings", "show", "delete"])
def test_an_unknown_model_is_not_found_and_never_another_one(folder, call):
    arguments = {"embed": {"input": "a"}, "embeddings": {"prompt": "a"}}.get(call, {})
    with pytest.raises(ollama.ResponseError, match=r"nothing-like-this. not found") as caught:
        getattr(folder, call)("nothing-like-this", **arguments)
    assert caught.value.status_code == 404


def test_a_file_of_the_folder_is_not_deleted(folder):
    with pytest.raises(ollama.ResponseError) as caught:
        folder.delete("encoder")
    assert caught.value.status_code in (400, 403)
    assert len(folder.embed("encoder", "a").embeddings) == 1


def test_a_model_is_pulled_served_copied_and_deleted(launch, models, tmp_path):
    content = (models / "encoder.gguf").read_bytes()
    with serve(FakeHub(files={"org/tiny-GGUF": {"tiny-F16.gguf": content}})) as hub:
        server = launch(
            *("-m", models / "decoder.gguf"),
            HF_ENDPOINT=hub.endpoint,
            HF_HUB_OFFLINE="0",
            HF_HUB_CACHE=str(tmp_path / "hub"),
            GGUF_EMBED_CACHE=str(tmp_path / "cache"),
        )
        with ollama.Client(host=server.url) as client:
            with pytest.raises(ollama.ResponseError) as caught:
                client.embed("org/tiny-GGUF", "a")
            assert caught.value.status_code == 404
            steps = list(client.pull("org/tiny-GGUF", stream=True))
            assert (steps[0].status, steps[-1].status) == ("pulling manifest", "success")
            assert any(step.total == step.completed == len(content) for step in steps)
            assert len(client.embed("org/tiny-GGUF", "a").embeddings[0]) == 32
            assert client.copy("org/tiny-GGUF", "mine").status == "success"
            assert "mine:latest" in [model.model for model in client.list().models]
            assert len(client.embed("mine", "a").embeddings[0]) == 32
            assert client.delete("mine").status == "success"
            assert client.delete("org/tiny-GGUF").status == "success"
            with pytest.raises(ollama.ResponseError) as caught:
                client.embed("org/tiny-GGUF", "a")
            assert caught.value.status_code == 404
            with pytest.raises(ollama.ResponseError, match="not on the hub"):
                client.pull("org/nothing")


def test_ollamas_port_is_a_second_door_to_the_same_models(launch, models):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    server = launch("-m", models / "encoder.gguf", "--ollama-port", str(port))
    assert port != server.port
    with ollama.Client(host=f"http://127.0.0.1:{port}") as client:
        assert_close(rows(client.embed("encoder", "alpha")), server.embed(["alpha"]), 0.999999)
        assert client._request_raw("GET", "/").text == "Ollama is running"
    assert server.get("/").body.startswith(b"gguf-embed")
