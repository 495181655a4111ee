"""The official ollama client and langchain-ollama, as their users use them, with a served fake."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime

import httpx
import ollama
import pytest
from langchain_ollama import OllamaEmbeddings

from gguf_embed.errors import ModelLoadFailed, Overloaded, PullFailed
from gguf_embed.types import LoadOptions, PullProgress
from tests.server.fake_service import MODEL, FakeService, failing, serving, vector_of

OTHER = replace(MODEL, name="other", aliases=("other-alias",), prompts={"query": "q: "}, license="mit")


def with_url(work: Callable[[str], object], service: FakeService | None = None) -> FakeService:
    """Run `work` on a thread with the address of a served fake."""

    async def scenario() -> FakeService:
        async with serving(service) as running:
            await asyncio.to_thread(work, running.url)
            return running.service

    return asyncio.run(scenario())


def with_client(work: Callable[[ollama.Client], object], service: FakeService | None = None) -> FakeService:
    """The same with a client."""

    def call(url: str) -> None:
        with ollama.Client(host=url) as client:
            work(client)

    return with_url(call, service)


def with_async_client(work, service: FakeService | None = None) -> FakeService:
    """Await `work` with an asynchronous client of a served fake."""

    async def scenario() -> FakeService:
        async with serving(service) as running, ollama.AsyncClient(host=running.url) as client:
            await work(client)
            return running.service

    return asyncio.run(scenario())


def test_embed_gives_vectors_and_numbers():
    def work(client: ollama.Client) -> None:
        one = client.embed("tiny", "ab")
        assert one.embeddings[0] == pytest.approx(vector_of("ab"), abs=1e-7)
        assert (one.model, one.prompt_eval_count, one.load_duration) == ("tiny", 4, 4_000_000)
        assert one.total_duration > 0
        two = client.embed("tiny:latest", ["ab", "c"], dimensions=4, truncate=True)
        assert [len(row) for row in two["embeddings"]] == [4, 4]

    with_client(work)


def test_options_and_keep_alive_reach_the_service():
    def work(client: ollama.Client) -> None:
        client.embed("tiny", "a", options={"num_ctx": 8, "temperature": 0.5}, keep_alive="10m")
        client.embed("tiny", "a", options=ollama.Options(num_thread=2, num_gpu=0, num_batch=64), keep_alive=-1)
        client.embed("tiny", "a", keep_alive=0)

    requests = with_client(work).requests
    assert [request.keep_alive_s for request in requests] == [600.0, float("inf"), 0.0]
    assert requests[0].load == LoadOptions(n_ctx=8)
    assert requests[1].load == LoadOptions(n_threads=2, n_gpu_layers=0, batch_tokens=64)


def test_embed_without_input_loads_and_unloads():
    def work(client: ollama.Client) -> None:
        assert client.embed("other", keep_alive=-1).embeddings == []
        assert {model.model for model in client.ps().models} == {"tiny:latest", "other:latest"}
        client.embed("other", keep_alive=0)
        assert [model.model for model in client.ps().models] == ["tiny:latest"]

    with_client(work, FakeService(others=(OTHER,)))


def test_the_older_embeddings_call_works():
    def work(client: ollama.Client) -> None:
        reply = client.embeddings("tiny", "ab", options={"num_ctx": 8}, keep_alive=1.5)
        assert reply.embedding == pytest.approx(vector_of("ab"), abs=1e-7)

    with_client(work)


def test_a_cut_text_is_told():
    def work(client: ollama.Client) -> None:
        client.embed("tiny", "a" * 30)  # the client keeps fields it knows only
        with pytest.raises(ollama.ResponseError, match="the input length exceeds the context length") as caught:
            client.embed("tiny", "a" * 30, truncate=False)
        assert caught.value.status_code == 400

    with_client(work)


def test_errors_are_response_errors_with_their_status():
    def work(client: ollama.Client) -> None:
        with pytest.raises(ollama.ResponseError) as caught:
            client.embed("nothing", "a")
        assert caught.value.status_code == 404
        assert caught.value.error == 'model "nothing" not found, try pulling it first'
        with pytest.raises(ollama.ResponseError, match="invalid input type"):
            client._request_raw("POST", "/api/embed", json={"model": "tiny", "input": [1, 2]})
        with pytest.raises(ollama.ResponseError) as caught:
            client.chat("tiny", [{"role": "user", "content": "hello"}])
        assert caught.value.status_code == 501
        with pytest.raises(ollama.ResponseError) as caught:
            client.generate("tiny", "hello")
        assert caught.value.status_code == 501

    with_client(work)


@pytest.mark.parametrize(("error", "status"), [(Overloaded("full"), 503), (ModelLoadFailed("broken"), 500)])
def test_failures_are_response_errors(error, status):
    def work(client: ollama.Client) -> None:
        with pytest.raises(ollama.ResponseError) as caught:
            client.embed("tiny", "a")
        assert caught.value.status_code == status

    with_client(work, failing(error))


def test_models_are_listed_and_shown():
    def work(client: ollama.Client) -> None:
        models = {model.model: model for model in client.list().models}
        assert set(models) == {"tiny:latest", "tiny-alias:latest", "other:latest", "other-alias:latest"}
        assert models["other:latest"].details.parameter_size == "22M"
        assert models["other:latest"].modified_at < datetime.now(UTC)
        shown = client.show("other")
        assert shown.capabilities == ["embedding"]
        assert shown.modelinfo["bert.context_length"] == 16
        assert (shown.license, shown.details.family) == ("mit", "bert")
        (loaded,) = client.ps().models
        assert loaded.expires_at > datetime.now(UTC)
        assert (loaded.context_length, int(loaded.size)) == (16, 100)

    with_client(work, FakeService(others=(OTHER,)))


STEPS = [
    PullProgress("pulling manifest"),
    PullProgress("pulling 797b70c4edf8", "sha256:797b70c4edf8", 100, 60),
    PullProgress("success"),
]


def test_a_pull_with_and_without_a_stream():
    def work(client: ollama.Client) -> None:
        steps = list(client.pull("new", stream=True))
        assert [step.status for step in steps] == [step.status for step in STEPS]
        assert (steps[1].digest, steps[1].total, steps[1].completed) == ("sha256:797b70c4edf8", 100, 60)
        assert client.pull("newer").status == "success"
        assert "newer:latest" in [model.model for model in client.list().models]

    service = FakeService()
    service.pull_steps = list(STEPS)
    with_client(work, service)


@pytest.mark.parametrize("first", [[], [PullProgress("pulling manifest")]])
def test_a_failed_pull_is_a_response_error_whenever_it_fails(first):
    def work(client: ollama.Client) -> None:
        with pytest.raises(ollama.ResponseError, match="no room"):
            list(client.pull("new", stream=True))
        with pytest.raises(ollama.ResponseError, match="no room"):
            client.pull("new")

    service = FakeService()
    service.pull_steps = [*first, PullFailed("no room")]
    with_client(work, service)


def test_copy_and_delete():
    def work(client: ollama.Client) -> None:
        assert client.copy("tiny", "mine").status == "success"
        assert len(client.embed("mine", "a").embeddings) == 1
        assert client.delete("tiny").status == "success"
        with pytest.raises(ollama.ResponseError) as caught:
            client.delete("tiny")
        assert caught.value.status_code == 404

    with_client(work)


def test_the_async_client_does_the_same():
    async def work(client: ollama.AsyncClient) -> None:
        replies = await asyncio.gather(*(client.embed("tiny", f"text {number}") for number in range(16)))
        for number, reply in enumerate(replies):
            assert reply.embeddings[0] == pytest.approx(vector_of(f"text {number}"), abs=1e-7)
        assert (await client.embeddings("tiny", "ab")).embedding == pytest.approx(vector_of("ab"), abs=1e-7)
        assert [step.status async for step in await client.pull("new", stream=True)] == ["success"]
        assert (await client.show("tiny")).capabilities == ["embedding"]
        assert len((await client.ps()).models) == 1
        assert (await client.copy("tiny", "mine")).status == "success"
        assert "mine:latest" in [model.model for model in (await client.list()).models]
        assert (await client.delete("tiny")).status == "success"
        with pytest.raises(ollama.ResponseError):
            await client.embed("tiny", "a")

    with_async_client(work)


@contextmanager
def langchain(url: str, **fields: object) -> Iterator[OllamaEmbeddings]:
    """langchain's model, which never closes its clients by itself."""
    model = OllamaEmbeddings(base_url=url, **{"model": "tiny", **fields})
    with model._client:
        yield model


def test_langchain_embeds_documents_and_queries():
    def work(url: str) -> None:
        with langchain(url, num_ctx=8, num_thread=2, keep_alive=60, temperature=0.1, dimensions=4) as model:
            assert [len(row) for row in model.embed_documents(["ab", "c", ""])] == [4, 4, 4]
        with langchain(url, validate_model_on_init=True) as model:
            assert model.embed_query("ab") == pytest.approx(vector_of("ab"), abs=1e-7)

    requests = with_url(work).requests
    assert requests[0].load == LoadOptions(n_ctx=8, n_threads=2)
    assert requests[0].keep_alive_s == 60.0
    assert requests[1].load == LoadOptions()


def test_langchain_checks_that_the_model_exists():
    def work(url: str) -> None:
        # a transport of ours, because nobody closes the client of a model that could not be made
        with httpx.HTTPTransport() as transport, pytest.raises(ValueError, match="not found in Ollama"):
            OllamaEmbeddings(
                model="nothing",
                base_url=url,
                validate_model_on_init=True,
                sync_client_kwargs={"transport": transport},
            )

    with_url(work)


def test_langchain_asynchronously():
    async def scenario():
        async with serving() as running:
            model = OllamaEmbeddings(model="tiny", base_url=running.url)
            async with model._async_client:
                rows = await model.aembed_documents(["ab", "c"])
                assert rows[0] == pytest.approx(vector_of("ab"), abs=1e-7)
                assert await model.aembed_query("c") == pytest.approx(rows[1])

    asyncio.run(scenario())
