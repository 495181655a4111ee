"""Azure's clients: a deployment's path, and the key in a header of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import openai
import pytest
from langchain_openai import AzureOpenAIEmbeddings

from tests.compat.heavy.comparing import assert_close, assert_own
from tests.server_process import Server, start_server, stop

VERSION = "2024-02-01"
TEXTS = ["How do I boil an egg?", "안녕하세요 세계", "🦊" * 20, "the price of eggs"]


@pytest.fixture(scope="module")
def with_key(cache_dir, models) -> Iterator[Server]:
    started = start_server(cache_dir, "-m", models / "encoder.gguf", "--api-key", "right")
    yield started
    stop(started)


def azure(server: Server, **fields: object) -> openai.AzureOpenAI:
    asked = {"azure_endpoint": server.url, "api_key": "unused", "api_version": VERSION, "max_retries": 0}
    return openai.AzureOpenAI(**asked | fields)


@pytest.mark.parametrize("fields", [{}, {"azure_deployment": "all-MiniLM-L6-v2"}])
def test_openais_client_for_azure(default_server, fields):
    with azure(default_server, **fields) as client:
        reply = client.embeddings.create(model="all-MiniLM-L6-v2", input=TEXTS)
    assert_own([item.embedding for item in reply.data], default_server, TEXTS)


def test_its_async_client(default_server):
    async def scenario() -> list[list[float]]:
        asked = {"azure_endpoint": default_server.url, "api_key": "unused", "api_version": VERSION}
        async with openai.AsyncAzureOpenAI(**asked) as client:
            reply = await client.embeddings.create(model="all-MiniLM-L6-v2", input=TEXTS)
            return [item.embedding for item in reply.data]

    assert_own(asyncio.run(scenario()), default_server, TEXTS)


def test_azures_newer_address_without_versions(default_server):
    with openai.OpenAI(base_url=default_server.url + "/openai/v1/", api_key="unused") as client:
        reply = client.embeddings.create(model="all-MiniLM-L6-v2", input=TEXTS)
    assert_own([item.embedding for item in reply.data], default_server, TEXTS)


def test_langchains_client_for_azure(default_server):
    model = AzureOpenAIEmbeddings(
        azure_endpoint=default_server.url,
        azure_deployment="all-MiniLM-L6-v2",
        api_key="unused",
        api_version=VERSION,
        check_embedding_ctx_length=False,
    )
    assert_own(model.embed_documents(TEXTS), default_server, TEXTS)
    assert_own([model.embed_query(TEXTS[0])], default_server, TEXTS[:1])


def test_langchains_ids_of_openai_become_texts(cl100k_server):
    model = AzureOpenAIEmbeddings(
        azure_endpoint=cl100k_server.url, azure_deployment="any", api_key="unused", api_version=VERSION
    )
    assert_close(model.embed_documents(TEXTS), cl100k_server.embed(TEXTS))


@pytest.mark.parametrize(
    "credentials", [{"api_key": "right"}, {"api_key": None, "azure_ad_token_provider": lambda: "right"}]
)
def test_the_key_is_read_from_both_headers(with_key, credentials):
    with azure(with_key, **credentials) as client:
        assert client.embeddings.create(model="encoder", input="a").data[0].embedding


def test_a_wrong_key_and_a_wrong_text_are_its_own_errors(with_key):
    with azure(with_key, api_key="wrong") as client, pytest.raises(openai.AuthenticationError):
        client.embeddings.create(model="encoder", input="a")
    with azure(with_key, api_key="right") as client, pytest.raises(openai.BadRequestError, match="too large"):
        client.embeddings.create(model="encoder", input="cat " * 500)
