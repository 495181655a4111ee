"""What docs/clients.md says that its snippets do not show, client by client."""

from __future__ import annotations

import asyncio
import json
import subprocess

import chromadb
import litellm
import ollama
import openai
import pytest
from chromadb.utils.embedding_functions import (
    HuggingFaceEmbeddingServer,
    OllamaEmbeddingFunction,
    OpenAIEmbeddingFunction,
)
from haystack.components.embedders import OpenAITextEmbedder
from haystack.utils import Secret
from haystack_integrations.components.embedders.ollama import OllamaTextEmbedder
from llama_index.embeddings.ollama import OllamaEmbedding
from llama_index.embeddings.openai import OpenAIEmbedding
from llama_index.embeddings.openai_like import OpenAILikeEmbedding

from tests.compat.heavy.comparing import assert_own
from tests.compat.heavy.test_snippets import NODE, skip_without_node

TEXTS = ["How do I boil an egg?", "안녕하세요 세계", "🦊" * 20, "the price of eggs"]
TOO_LONG = "long " * 1000


@pytest.fixture
def base(default_server) -> str:
    return default_server.url + "/v1"


def test_openai_tries_a_wrong_text_once(base, default_server):
    client = openai.OpenAI(base_url=base, api_key="unused", max_retries=2)
    seen = []
    client._client.event_hooks["response"].append(lambda response: seen.append(response.status_code))
    with client, pytest.raises(openai.BadRequestError):
        client.embeddings.create(model="any", input=TOO_LONG)
    assert seen == [400]


def test_openai_sends_other_fields_in_extra_body(base):
    with openai.OpenAI(base_url=base, api_key="unused") as client:
        reply = client.embeddings.create(model="any", input=[TOO_LONG], extra_body={"truncate": True})
    assert reply.usage.prompt_tokens == 512
    assert reply.model_extra["truncated"]


def test_openai_without_v1_gets_openais_shape(default_server):
    with openai.OpenAI(base_url=default_server.url, api_key="unused") as client:
        reply = client.embeddings.create(model="any", input=TEXTS)
    assert_own([item.embedding for item in reply.data], default_server, TEXTS)


def test_ollama_wants_a_known_name(default_server):
    with ollama.Client(host=default_server.url) as client, pytest.raises(ollama.ResponseError) as caught:
        client.embed("another", "a")
    assert caught.value.status_code == 404


def test_llama_index_both_ways_and_asynchronously(base, default_server):
    like = OpenAILikeEmbedding(model_name="all-MiniLM-L6-v2", api_base=base, embed_batch_size=2)
    own = OllamaEmbedding(model_name="all-minilm", base_url=default_server.url, embed_batch_size=2)
    for model in (like, own):
        assert_own(model.get_text_embedding_batch(TEXTS), default_server, TEXTS)
        assert_own(asyncio.run(model.aget_text_embedding_batch(TEXTS)), default_server, TEXTS)
        assert_own([model.get_query_embedding(TEXTS[0])], default_server, TEXTS[:1])
    assert OpenAILikeEmbedding(model_name="any").embed_batch_size == 10


def test_llama_index_makes_spaces_of_line_breaks(base, default_server):
    model = OpenAILikeEmbedding(model_name="any", api_base=base)
    tokens = default_server.post("/tokenize", {"content": "one\ntwo"}).json()
    assert tokens == default_server.post("/tokenize", {"content": "one two"}).json()
    assert_own(model.get_text_embedding_batch(["one\ntwo"]), default_server, ["one two"])


def test_llama_index_knows_openais_names_only():
    with pytest.raises(ValueError, match="all-MiniLM-L6-v2"):
        OpenAIEmbedding(model="all-MiniLM-L6-v2", api_key="unused")


def test_haystack_embeds_queries(base, default_server):
    by_openai = OpenAITextEmbedder(api_base_url=base, api_key=Secret.from_token("unused"), model="any")
    by_ollama = OllamaTextEmbedder(url=default_server.url, model="all-minilm")
    for embedder in (by_openai, by_ollama):
        assert_own([embedder.run(TEXTS[0])["embedding"]], default_server, TEXTS[:1])


def test_litellm_passes_dimensions_on_when_told_to(base, default_server):
    asked = {"model": "openai/all-MiniLM-L6-v2", "api_base": base, "api_key": "unused", "input": TEXTS}
    with pytest.raises(litellm.UnsupportedParamsError):
        litellm.embedding(**asked, dimensions=64)
    reply = litellm.embedding(**asked, dimensions=64, allowed_openai_params=["dimensions"])
    assert {len(item["embedding"]) for item in reply.data} == {64}


def test_litellm_asynchronously_with_errors(base, default_server):
    asked = {"model": "openai/any", "api_base": base, "api_key": "unused"}
    reply = asyncio.run(litellm.aembedding(**asked, input=TEXTS))
    assert_own([item["embedding"] for item in reply.data], default_server, TEXTS)
    assert reply.usage.prompt_tokens > len(TEXTS)
    with pytest.raises(litellm.BadRequestError):
        litellm.embedding(**asked, input=TOO_LONG)


def test_chromas_collections_find_what_was_added(base, default_server, monkeypatch):
    monkeypatch.setenv("CHROMA_OPENAI_API_KEY", "unused")
    functions = (
        OpenAIEmbeddingFunction(api_base=base, model_name="any"),
        OllamaEmbeddingFunction(url=default_server.url, model_name="all-minilm"),
        HuggingFaceEmbeddingServer(url=default_server.url + "/embed"),
    )
    client = chromadb.EphemeralClient(chromadb.Settings(anonymized_telemetry=False))
    for number, function in enumerate(functions):
        assert_own(function(TEXTS), default_server, TEXTS)
        collection = client.create_collection(f"texts-{number}", embedding_function=function)
        collection.add(ids=list(map(str, range(len(TEXTS)))), documents=TEXTS)
        assert collection.query(query_texts=["cooking eggs"], n_results=1)["ids"] == [["0"]]


NODE_ERRORS = """
import OpenAI from "openai";
import { Ollama } from "ollama";

const seen = [];
const one = new OpenAI({ baseURL: URL_ + "/v1", apiKey: "unused" });
for (const given of [{ input: "long ".repeat(1000) }, { input: "a", dimensions: 4096 }, { input: [[7592, 2088]] }])
  await one.embeddings.create({ model: "any", ...given }).catch((error) => seen.push([error.status, error.type]));
const cut = await one.embeddings.create({ model: "any", input: "a", dimensions: 64, encoding_format: "float" });
const two = new Ollama({ host: URL_ });
await two.embed({ model: "another", input: "a" }).catch((error) => seen.push([error.status_code, error.error]));
const models = (await two.list()).models.length;
console.log(JSON.stringify({ seen, length: cut.data[0].embedding.length, models }));
"""


def test_nodes_clients_raise_their_own_errors(default_server):
    skip_without_node()
    code = NODE_ERRORS.replace("URL_", json.dumps(default_server.url))
    ended = subprocess.run(
        ["node", "--input-type=module", "-e", code], cwd=NODE, capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 0, ended.stderr
    said = json.loads(ended.stdout)
    assert said["seen"] == [
        *[[400, "invalid_request_error"]] * 3,
        [404, 'model "another" not found, try pulling it first'],
    ]
    assert (said["length"], said["models"] > 0) == (64, True)
