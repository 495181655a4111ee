"""One real process, several models: each by its name, loaded when asked for, gone when idle, a folder that changes."""

import json
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from gguf_embed.model_store.store import ModelStore
from tests.gguf_models import write_tiny_encoder
from tests.server_process import run_to_end, wait_until

pytestmark = pytest.mark.process


def states(server):
    return {model["id"]: model["status"]["value"] for model in server.get("/v1/models").json()["data"]}


@pytest.fixture
def folder(tmp_path, models):
    made = tmp_path / "folder"
    made.mkdir()
    shutil.copy(models / "encoder.gguf", made / "first.gguf")
    write_tiny_encoder(made / "second.gguf", n_ctx=32)
    return made


def test_each_name_gets_its_own_models_vectors(launch, models):
    server = launch("-m", f"enc={models / 'encoder.gguf'}", "-m", f"dec={models / 'decoder.gguf'}")
    alone = {name: launch("-m", models / f"{name}.gguf").embed("a text") for name in ("encoder", "decoder")}
    np.testing.assert_allclose(server.embed("a text", model="enc"), alone["encoder"], atol=1e-6)
    np.testing.assert_allclose(server.embed("a text", model="dec"), alone["decoder"], atol=1e-6)
    np.testing.assert_allclose(server.embed("a text"), alone["encoder"], atol=1e-6)  # the first that was named
    assert server.post("/v1/embeddings", {"input": "x", "model": "dec"}).json()["model"] == "dec"


def test_an_unknown_name_is_a_404_that_lists_the_models(launch, models):
    server = launch("-m", f"enc={models / 'encoder.gguf'}", "-m", f"dec={models / 'decoder.gguf'}")
    for path in ("/v1/embeddings", "/embedding"):
        reply = server.post(path, {"input": "x", "model": "gpt-4"})
        assert reply.status == 404
        assert "'enc', 'dec'" in reply.json()["error"]["message"]
    assert server.post("/tokenize", {"content": "x", "model": "gpt-4"}).status == 404
    assert server.get("/v1/models/gpt-4").status == 404
    assert server.get("/props?model=gpt-4").status == 404


def test_a_reranker_that_is_asked_for_vectors_names_embedding_models(launch, models):
    reply = launch("-m", models / "reranker.gguf", "-m", f"dec={models / 'decoder.gguf'}").post(
        "/v1/embeddings", {"input": "x"}
    )
    assert reply.status == 501
    assert "'dec'" in reply.json()["error"]["message"]
    alone = launch("-m", models / "reranker.gguf").post("/v1/embeddings", {"input": "x"})
    assert alone.status == 501


def test_only_the_first_model_is_loaded_at_startup_and_listing_loads_none(launch, models):
    server = launch("-m", f"enc={models / 'encoder.gguf'}", "-m", f"dec={models / 'decoder.gguf'}")
    for path in ("/v1/models", "/models", "/props?model=dec", "/v1/models/dec", "/metrics", "/health", "/ready", "/"):
        assert server.get(path).status == 200, path
    assert states(server) == {"enc": "loaded", "dec": "unloaded"}
    assert server.get("/props?model=dec").json()["is_sleeping"] is True
    server.embed("x", model="dec")
    assert states(server) == {"enc": "loaded", "dec": "loaded"}
    assert any(line == "more     1 model, loaded on first use: dec" for line in server.banner)


def test_tokens_are_those_of_the_named_model(launch, models):
    server = launch("-m", f"enc={models / 'encoder.gguf'}", "-m", f"dec={models / 'decoder.gguf'}")

    def ids(model):
        return server.post("/tokenize", {"content": "hello there", "model": model}).json()["tokens"]

    assert ids("enc") != ids("dec")
    text = server.post("/detokenize", {"tokens": ids("dec"), "model": "dec"}).json()["content"]
    assert text.strip() == "hello there"


def test_a_folders_files_come_and_go_without_a_restart(launch, folder, models):
    server = launch("--models-dir", folder)
    assert set(states(server)) == {"first", "second"}
    assert server.post("/v1/embeddings", {"input": "x"}).status == 400  # none of them is the first choice
    assert server.embed("x", model="first").shape == (1, 32)
    shutil.copy(models / "decoder.gguf", folder / "third.gguf")
    wait_until(lambda: "third" in states(server))
    assert server.post("/v1/embeddings", {"input": "x", "model": "third"}).status == 200
    (folder / "third.gguf").unlink()
    wait_until(lambda: "third" not in states(server))
    assert server.post("/v1/embeddings", {"input": "x", "model": "third"}).status == 404


def test_a_replaced_file_is_reloaded(launch, folder):
    server = launch("--models-dir", folder)
    assert server.post("/embedding", {"input": [5] * 40, "model": "second"}).status == 400  # over 32 tokens
    fresh = folder / "fresh"
    write_tiny_encoder(fresh, n_ctx=64)
    fresh.replace(folder / "second.gguf")
    wait_until(lambda: server.post("/embedding", {"input": [5] * 40, "model": "second"}).status == 200)


def test_an_idle_model_is_unloaded_and_comes_back(launch, models):
    server = launch("-m", models / "encoder.gguf", "--keep-alive", "0.3s")
    first = server.embed("x")
    wait_until(lambda: states(server) == {"encoder": "unloaded"})
    assert server.get("/health").status == 200
    np.testing.assert_array_equal(server.embed("x"), first)
    assert "gguf_embed_model_loads_total" in server.get("/metrics").body.decode()


def test_a_model_served_alone_stays(launch, models):
    server = launch("-m", models / "encoder.gguf")
    assert states(server) == {"encoder": "loaded"}


def test_no_more_models_are_loaded_than_allowed(launch, folder, models):
    shutil.copy(models / "decoder.gguf", folder / "third.gguf")
    server = launch("--models-dir", folder, "--models-max", "1")
    names = ["first", "second", "third"]
    with ThreadPoolExecutor(12) as pool:
        replies = list(
            pool.map(lambda i: server.post("/v1/embeddings", {"input": f"text {i}", "model": names[i % 3]}), range(60))
        )
    assert {reply.status for reply in replies} == {200}
    assert [reply.json()["model"] for reply in replies] == [names[i % 3] for i in range(60)]
    assert list(states(server).values()).count("loaded") <= 1


def test_a_model_over_the_memory_limit_is_named_with_both_sizes(launch, folder):
    server = launch("--models-dir", folder, "--max-memory", "10M")
    reply = server.post("/v1/embeddings", {"input": "x", "model": "first"})
    assert reply.status == 503
    message = reply.json()["error"]["message"]
    assert "is 10" in message
    assert "--max-memory" in message


def test_a_file_that_cannot_be_loaded_is_an_error_of_that_request_alone(launch, folder):
    whole = (folder / "first.gguf").read_bytes()
    (folder / "odd.gguf").write_bytes(whole.replace(b"bert.attention.head_count", b"bert.attention.head_cOunt"))
    server = launch("--models-dir", folder)
    for _ in range(2):
        reply = server.post("/v1/embeddings", {"input": "x", "model": "odd"})
        assert reply.status == 500
        message = reply.json()["error"]["message"]
        assert "'odd' cannot be loaded" in message
        assert str(folder) not in json.dumps(reply.json())
    assert server.post("/v1/embeddings", {"input": "x", "model": "first"}).status == 200


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"GGUF", "truncated"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "git lfs pull"),
        (b"<!DOCTYPE html>", "web page"),
        (b"", "empty"),
    ],
)
def test_the_only_good_file_does_not_answer_for_one_that_cannot_be_read(launch, folder, content, why):
    (folder / "second.gguf").write_bytes(content)
    server = launch("--models-dir", folder)
    assert len(server.embed("x", model="any")) == 1
    assert len(server.embed("x")) == 1
    for path in ("/v1/embeddings", "/embedding", "/embed", "/v2/embed", "/api/embed", "/v1/rerank", "/tokenize"):
        body = {"model": "second", "query": "x", "documents": ["x"]}
        body["content" if path == "/tokenize" else "texts" if path == "/v2/embed" else "input"] = ["x"]
        reply = server.post(path, body)
        assert reply.status == (424 if path == "/embed" else 500), (path, reply)
        assert why in reply.body.decode()
        assert str(folder) not in reply.body.decode()


def test_a_stop_frees_all_models(launch, models):
    server = launch("-m", f"enc={models / 'encoder.gguf'}", "-m", f"dec={models / 'decoder.gguf'}")
    server.embed("x", model="dec")
    code, printed = server.end(signal.SIGTERM)
    assert code == 0
    assert printed.endswith("stopped\n")


def test_two_names_for_one_model_need_their_own_flag(cache_dir, models):
    ended = run_to_end(cache_dir, "serve", "-m", models / "encoder.gguf", "-m", models / "decoder.gguf", "-a", "x")
    assert ended.returncode == 1
    assert "NAME=FILE" in ended.stderr


def test_a_pull_changes_nothing_for_the_clients_of_a_model_that_was_named(launch, models, cache_dir):
    server = launch("-m", models / "encoder.gguf")
    asked = {"input": "x", "model": "any-name"}
    before = server.post("/v1/embeddings", asked).body
    store = ModelStore(cache_dir)
    store.add("any-name", models / "decoder.gguf", "d" * 64)  # as `gguf-embed pull` in another shell
    try:
        wait_until(lambda: "any-name:latest" in ollamas_names(server))
        assert server.post("/v1/embeddings", asked).body == before
        assert states(server) == {"encoder": "loaded"}
        theirs = server.post("/api/embed", asked)
        assert (theirs.status, theirs.json()["model"]) == (200, "any-name")
        assert server.post("/v1/embeddings", asked).body == before
        (encoder,) = (one for one in server.get("/api/ps").json()["models"] if one["name"] == "encoder:latest")
        assert encoder["expires_at"] == "2318-01-01T00:00:00Z"
        later = launch("-m", models / "encoder.gguf")
        assert later.post("/v1/embeddings", asked).body == before
        everywhere = launch("-m", models / "encoder.gguf", "--pulled")
        assert everywhere.post("/v1/embeddings", asked).json()["model"] == "any-name"
    finally:
        store.remove("any-name")
    _, said = server.end(signal.SIGTERM)
    assert said.count("pulled: any-name; served in Ollama's API only") == 1


def ollamas_names(server):
    return [model["name"] for model in server.get("/api/tags").json()["models"]]
