"""A model on a server: our own, and others whose replies differ."""

from __future__ import annotations

import asyncio
import pickle
import threading

import numpy as np
import pytest

from gguf_embed import Client
from gguf_embed.embedder import client as module
from gguf_embed.errors import ConfigError, EmbedError, InvalidRequest, ModelNotFound, NotSupported, Unavailable
from tests.embedder.misbehaving import N_DIMS, Misbehaving, changed, raw, vector_of

TEXTS = ["hello world", "the cat sat on a mat", "a"]


@pytest.mark.parametrize("path", ["", "/", "/v1", "/v1/"])
def test_our_server_gives_the_same_as_a_model_in_this_process(tiny_server, tiny, client, path):
    model = client(tiny_server.url + path)
    np.testing.assert_allclose(model.embed(TEXTS), tiny.embed(TEXTS), atol=1e-3)
    np.testing.assert_allclose(model.embed("a", dimensions=8), tiny.embed("a", dimensions=8), atol=1e-3)
    np.testing.assert_allclose(model.embed_query("cat"), tiny.embed_query("cat"), atol=1e-3)
    assert model.embed([]).shape == (0, 32)
    assert model.tokenize("hello cat") == tiny.tokenize("hello cat")


def test_the_info_of_our_server(tiny_server, client):
    model = client(tiny_server.url)
    info = model.info
    assert (info.name, info.dimensions, info.max_tokens, info.pooling) == ("encoder", 32, 64, "mean")
    assert info.fingerprint == ""  # its digest covers the file's header only
    assert repr(model) == f"<Client {tiny_server.url}>"


def test_what_our_server_refuses_is_said_in_its_words(tiny_server, client):
    model = client(tiny_server.url)
    with pytest.raises(InvalidRequest, match=r"input 0 is too large .102 tokens, the limit per text is 64.*HTTP 400"):
        model.embed("the " * 100)
    assert model.embed("the " * 100, truncate=True).shape == (32,)
    with pytest.raises(NotSupported, match="no rank head"):
        model.rerank("cat", ["dog"])
    with pytest.raises(NotSupported, match="normalize=False is not possible"):
        model.embed("cat", normalize=False)


def test_a_served_reranker_gives_the_ranking_of_a_model_in_this_process(launch, models, open_model, client):
    server = launch("--engine", "llama", "-m", models / "reranker.gguf", "--precision", "f32")
    here, there = open_model("reranker"), client(server.url)
    documents = ["dog", "cat", "mat"]
    ranked, expected = there.rerank("the cat", documents), here.rerank("the cat", documents)
    assert [item.index for item in ranked] == [item.index for item in expected]
    np.testing.assert_allclose([item.score for item in ranked], [item.score for item in expected], atol=1e-3)
    assert there.rerank("the cat", documents, top_n=1) == ranked[:1]
    assert there.rerank("the cat", []) == []


def test_prompts_come_from_our_server_and_from_the_caller(launch, models, client, tiny):
    server = launch(
        "--engine", "llama", "-m", models / "encoder.gguf", "--prompt", "query=the cat: ", "--precision", "f32"
    )
    model = client(server.url, prompts={"document": "dog "})
    np.testing.assert_allclose(model.embed_query("mat"), tiny.embed("the cat: mat"), atol=1e-3)
    np.testing.assert_allclose(model.embed_documents(["mat"]), tiny.embed(["dog mat"]), atol=1e-3)
    np.testing.assert_allclose(model.embed("mat", prompt="a red: "), tiny.embed("a red: mat"), atol=1e-3)
    assert dict(model.info.prompts) == {"query": "the cat: ", "document": "dog "}
    with pytest.raises(InvalidRequest, match='no prompt "qurey", only "query", "document"'):
        model.embed("mat", prompt="qurey")


def test_a_key_is_sent_and_never_shown(launch, models, client):
    server = launch("--engine", "llama", "-m", models / "encoder.gguf", "--api-key", "secret-key")
    assert client(server.url, api_key="secret-key").embed("cat").shape == (32,)
    model = client(server.url, api_key="wrong-secret")
    with pytest.raises(EmbedError) as caught:
        model.embed("cat")
    assert caught.value.kind == "authentication"
    assert "wrong-secret" not in f"{caught.value} {model!r} {vars(model)}"


def test_a_server_that_repeats_the_key_does_not_spread_it(misbehaving, client):
    async def echo(request, body):
        from aiohttp import web

        return web.json_response({"error": {"message": f"bad key {request.headers['Authorization']}"}}, status=401)

    server = misbehaving(echo)
    with pytest.raises(EmbedError, match="bad key Bearer …") as caught:
        client(server.url, api_key="sk-123").embed("a")
    assert "sk-123" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "arguments", "message"),
    [
        ("localhost:8080", {}, "write it like http://127.0.0.1:8080"),
        ("", {}, "is not the address of a server"),
        ("http://host/v1?a=b", {}, "leave out what follows the path"),
        ("http://host", {"api_key": "new\nline"}, "characters that cannot be sent"),
        ("http://user:password@host", {"api_key": "k"}, "give only one of them"),
        ("http://host", {"timeout_s": 0}, "timeout_s must be above 0"),
    ],
)
def test_wrong_arguments_are_refused_without_showing_secrets(url, arguments, message):
    with pytest.raises(ConfigError, match=message) as caught:
        Client(url, **arguments)
    assert "password@" not in str(caught.value)


def test_a_password_in_the_url_is_used_and_not_shown(misbehaving, client):
    server = misbehaving()
    model = client(server.url.replace("//", "//me:pass@"))
    model.embed("a")
    assert server.sent[0].headers["Authorization"].startswith("Basic ")
    assert "pass" not in repr(model)


def test_a_server_that_is_not_there_is_noticed_soon(client):
    message = (
        "http://127.0.0.1:9 cannot be reached: Connection refused; tried 3 times; start a server there, or correct"
    )
    with pytest.raises(Unavailable, match=message):
        client("http://127.0.0.1:9").embed("a")


@pytest.mark.parametrize("as_numbers", [False, True])
def test_replies_in_any_order_as_base64_or_numbers_are_read(misbehaving, client, as_numbers):
    server = misbehaving(changed(lambda reply: None, as_numbers=as_numbers))
    np.testing.assert_allclose(client(server.url).embed(["x", "y"]), [vector_of("x"), vector_of("y")], atol=1e-6)
    assert server.sent[0].body == {"input": ["x", "y"], "encoding_format": "base64"}


def test_model_and_dimensions_are_sent_and_cut_here_if_the_server_ignores_them(misbehaving, client):
    server = misbehaving()
    model = client(server.url, model="m")
    vector = model.embed("x", dimensions=4, truncate=True)
    np.testing.assert_allclose(vector, vector_of("x")[:4] / np.linalg.norm(vector_of("x")[:4]), atol=1e-6)
    assert server.sent[0].body | {"model": "m", "dimensions": 4, "truncate": True} == server.sent[0].body
    with pytest.raises(InvalidRequest, match="asks for 9 dimensions, this model has 8"):
        model.embed("x", dimensions=9)


def test_many_texts_go_in_several_requests_at_once_within_the_servers_limit(misbehaving, client):
    info = {"model_id": "m", "max_client_batch_size": 10, "model_sha": "abc"}
    server = misbehaving(routes={"/info": info}, pause_s=0.02)
    model = client(server.url)
    texts = [f"text {number}" for number in range(95)]
    np.testing.assert_allclose(model.embed(texts), np.stack([vector_of(text) for text in texts]), atol=1e-6)
    assert sorted(len(sent.texts) for sent in server.sent) == [5, *[10] * 9]
    assert 1 < server.most_running <= module.REQUESTS_AT_ONCE
    assert (model.info.name, model.info.fingerprint) == ("m", "revision:abc")


def test_lone_surrogates_are_replaced_and_not_an_error(misbehaving, client):
    server = misbehaving()
    client(server.url).embed("a\ud800b")
    assert server.sent[0].texts == ["a\ufffdb"]


def test_teis_routes_are_found(misbehaving, client):
    scores = [{"index": 1, "score": 0.9}, {"index": 0, "score": 0.1}]
    model = client(misbehaving(routes={"/rerank": scores}).url)
    assert [(item.index, round(item.score, 3)) for item in model.rerank("q", ["a", "b"])] == [(1, 0.9), (0, 0.1)]


@pytest.mark.parametrize("call", [lambda model: model.tokenize("a"), lambda model: model.rerank("a", ["b"])])
def test_what_a_server_does_not_have_is_not_supported(misbehaving, client, call):
    with pytest.raises(NotSupported, match="this server"):
        call(client(misbehaving().url))


def test_a_server_without_the_model_says_so(misbehaving, client):
    from tests.embedder.misbehaving import status

    with pytest.raises(ModelNotFound, match="no such model"):
        client(misbehaving(status(404, "no such model")).url).embed("a")


def test_async_methods_and_close(tiny_server):
    before = threading.enumerate()

    async def steps():
        async with Client(tiny_server.url) as model:
            vectors = await asyncio.gather(*(model.aembed(text) for text in TEXTS))
            info = await model.ainfo()
            ids = await model.atokenize("cat")
        with pytest.raises(Unavailable, match="this Client is closed"):
            await model.aembed("a")
        return vectors, info.dimensions, ids

    vectors, n_dims, ids = asyncio.run(steps())
    assert (len(vectors), n_dims, len(ids)) == (3, 32, 3)
    assert threading.enumerate() == before


def test_a_client_cannot_be_pickled(client):
    with pytest.raises(TypeError, match="create one Client per process"):
        pickle.dumps(client("http://127.0.0.1:9"))


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        b"[]",
        b'{"data": 1}',
        b'{"data": [{"index": 0}]}',
        b'{"data": [{"index": 0, "embedding": "AAA"}]}',
        b'{"data": [{"index": 0, "embedding": []}]}',
        b'{"data": [{"index": 0, "embedding": [[1]]}]}',
        b'{"data": [{"index": 0, "embedding": ["x"]}]}',
        b'{"data": [{"index": 0, "embedding": [null, 1]}]}',
        b'{"data": [{"index": 1, "embedding": [1]}]}',
        b'{"data": [{"index": 0, "embedding": [1]}, {"index": 0, "embedding": [1]}]}',
        b'{"data": [{"index": 0, "embedding": [1e999]}]}',
    ],
)
def test_a_broken_reply_is_never_taken_for_vectors(misbehaving, client, reply):
    with pytest.raises(Unavailable, match="sent "):
        client(misbehaving(raw(reply)).url, max_retries=0).embed("a")


def test_vectors_of_different_lengths_are_a_broken_reply(misbehaving, client):
    def shorten(reply):
        reply["data"][0]["embedding"] = "AACAPw=="

    with pytest.raises(Unavailable, match=rf"vectors of different lengths, \[1, {N_DIMS}\]"):
        client(misbehaving(changed(shorten)).url, max_retries=0).embed(["a", "b"])


def test_the_fake_server_answers_what_it_should():
    assert Misbehaving().reply(["a"])["usage"] == {"prompt_tokens": 3}
