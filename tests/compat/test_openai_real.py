"""The official openai client against the real server process with the default model."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import numpy as np
import openai
import pytest

from tests.server_process import Server
from tests.test_exactness import assert_close

TEXTS = ["How do I boil an egg?", "안녕하세요 세계", "नमस्ते दुनिया", "🦊" * 20, ""]


@pytest.fixture(scope="module")
def client(default_server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=default_server.url + "/v1", api_key="unused", max_retries=0) as opened:
        yield opened


def test_the_client_s_default_mode_gives_the_plain_floats(client, default_server):
    reply = client.embeddings.create(model="text-embedding-3-small", input=TEXTS)
    assert reply.model == "all-MiniLM-L6-v2"
    assert reply.usage.prompt_tokens == reply.usage.total_tokens > len(TEXTS)
    found = np.array([item.embedding for item in reply.data], np.float32)
    assert_close(found, default_server.embed(TEXTS, encoding_format="float"), 0.999999)


@pytest.mark.parametrize("given", ["one text", ["two", "texts"], [101, 7592, 102], [[101, 7592, 102], [101, 102]]])
def test_every_input_type(client, default_server, given):
    reply = client.embeddings.create(model="any", input=given, dimensions=100)
    found = np.array([item.embedding for item in reply.data], np.float32)
    assert_close(found, default_server.embed(given, dimensions=100), 0.999999)


def test_a_thousand_texts_come_back_in_order(client, default_server):
    texts = [f"text number {number}" for number in range(1000)]
    reply = client.embeddings.create(model="any", input=texts)
    found = np.array([reply.data[index].embedding for index in (0, 500, 999)], np.float32)
    assert_close(found, default_server.embed([texts[index] for index in (0, 500, 999)]), 0.99999)


def test_the_async_client_many_at_once(default_server):
    async def scenario() -> list[list[float]]:
        async with openai.AsyncOpenAI(base_url=default_server.url + "/v1", api_key="unused") as client:
            replies = await asyncio.gather(
                *(client.embeddings.create(model="any", input=f"question {number}") for number in range(32))
            )
            return [reply.data[0].embedding for reply in replies]

    found = np.array(asyncio.run(scenario()), np.float32)
    assert_close(found, default_server.embed([f"question {number}" for number in range(32)]), 0.99999)


@pytest.mark.parametrize(
    ("arguments", "param"),
    [
        ({"input": []}, "input"),
        ({"input": "a", "dimensions": 4096}, "dimensions"),
        ({"input": [[101, 10**6, 102]]}, None),
        ({"input": [[7592, 2088]]}, "input"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format"),
        ({"input": "long " * 1000}, "input"),
    ],
)
def test_bad_requests_are_bad_request_errors(client, arguments, param):
    with pytest.raises(openai.BadRequestError) as caught:
        client.embeddings.create(model="any", **arguments)
    assert caught.value.type == "invalid_request_error"
    if param is not None:
        assert caught.value.param == param


def test_wrong_keys_and_strict_names_are_their_own_errors(launch, models):
    server = launch("-m", models / "encoder.gguf", "--strict-model", "--api-key", "right")
    with openai.OpenAI(base_url=server.url + "/v1", api_key="wrong", max_retries=0) as client:
        with pytest.raises(openai.AuthenticationError):
            client.embeddings.create(model="encoder", input="a")
        allowed = client.with_options(api_key="right")
        assert len(allowed.embeddings.create(model="encoder", input="a").data) == 1
        with pytest.raises(openai.NotFoundError):
            allowed.embeddings.create(model="another", input="a")
        assert [model.id for model in allowed.models.list()] == ["encoder"]


def test_a_models_own_ids_where_that_was_said(launch, models):
    server = launch("-m", models / "encoder.gguf", "--openai-token-ids", "model")
    with openai.OpenAI(base_url=server.url + "/v1", api_key="unused", max_retries=0) as client:
        assert len(client.embeddings.create(model="any", input=[[5, 6], [7]]).data) == 2
        n_vocab = client.models.list().data[0].meta["n_vocab"]
        for token in (n_vocab, 10**6, -1):
            with pytest.raises(openai.BadRequestError, match=str(token)):
                client.embeddings.create(model="any", input=[[5], [6, token]])


def test_ids_of_an_encoding_that_is_not_here_are_refused_with_the_way_out(launch, models, tmp_path):
    flags = ("--openai-token-ids", "o200k_base")
    server = launch("-m", models / "encoder.gguf", *flags, TIKTOKEN_CACHE_DIR=str(tmp_path))
    assert any("tiktoken.get_encoding('o200k_base')" in line for line in server.banner)
    with openai.OpenAI(base_url=server.url + "/v1", api_key="unused", max_retries=0) as client:
        with pytest.raises(openai.BadRequestError, match="check_embedding_ctx_length=False") as caught:
            client.embeddings.create(model="any", input=[[5, 6]])
        assert str(tmp_path) in caught.value.message
        assert len(client.embeddings.create(model="any", input=["5 6"]).data) == 1


@pytest.mark.parametrize("path", ["", "/", "/v1", "/v1/", "/v1/v1", "/api/v1", "/openai/v1", "/v1/embeddings"])
def test_every_address_that_people_configure(default_server, path):
    with openai.OpenAI(base_url=default_server.url + path, api_key="unused", max_retries=0) as client:
        reply = client.embeddings.create(model="any", input=["one", "two"])
    assert [len(item.embedding) for item in reply.data] == [384, 384]
    assert_close(
        np.array([item.embedding for item in reply.data], np.float32), default_server.embed(["one", "two"]), 0.999999
    )


def test_without_v1_errors_have_openais_shape(default_server):
    client = openai.OpenAI(base_url=default_server.url, api_key="unused", max_retries=0)
    with client, pytest.raises(openai.BadRequestError) as caught:
        client.embeddings.create(model="any", input="a", dimensions=4096)
    assert (caught.value.param, caught.value.code) == ("dimensions", "invalid_request")


def test_azures_client(launch, models):
    server = launch("-m", models / "encoder.gguf", "-m", models / "decoder.gguf", "--api-key", "right")
    azure = {"azure_endpoint": server.url, "api_version": "2024-02-01", "max_retries": 0}
    with openai.AzureOpenAI(api_key="right", azure_deployment="decoder", **azure) as client:
        assert client.embeddings.create(model="encoder", input="cat").model == "decoder"
    with openai.AzureOpenAI(api_key="right", **azure) as client:
        assert client.embeddings.create(model="encoder", input=["cat", "dog"]).model == "encoder"
        with pytest.raises(openai.NotFoundError, match="encoder"):
            client.embeddings.create(model="another", input="cat")
        with pytest.raises(openai.BadRequestError):
            client.embeddings.create(model="encoder", input=[])
    with openai.AzureOpenAI(api_key="wrong", **azure) as client, pytest.raises(openai.AuthenticationError):
        client.embeddings.create(model="encoder", input="cat")


def test_ids_from_the_client_are_openais_and_from_anyone_else_the_models(default_server):
    with openai.OpenAI(base_url=default_server.url + "/v1", api_key="unused", max_retries=0) as client:
        for path_of_client in (client, client.with_options(base_url=default_server.url)):
            with pytest.raises(openai.BadRequestError, match="check_embedding_ctx_length=False"):
                path_of_client.embeddings.create(model="any", input=[[12, 34], [56, 78]])
    for ids in ([12, 34, 56], [[12, 34], [56, 78]]):
        reply = default_server.post("/v1/embeddings", {"input": ids})
        np.testing.assert_array_equal(reply.vectors(), default_server.post("/embedding", {"content": ids}).vectors())


def test_fields_of_other_apis_in_the_clients_extra_body(client):
    long = "long " * 1000
    for fields in ({"truncate": "END"}, {"truncation": True}, {"truncate_prompt_tokens": -1}, {"truncate": "START"}):
        reply = client.embeddings.create(model="any", input=[long], extra_body=fields)
        assert reply.model_extra["truncated"][0]["n_kept"] == reply.usage.prompt_tokens
    with pytest.raises(openai.BadRequestError, match="too large"):
        client.embeddings.create(model="any", input=[long], extra_body={"truncate": "NONE"})
