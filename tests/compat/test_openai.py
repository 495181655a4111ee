"""The official openai client, as its users use it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import openai
import pytest

from gguf_embed.errors import InputTooLong, Overloaded
from tests.server.fake_service import FakeService, failing, holding, serving, vector_of


def with_client(work: Callable[[openai.OpenAI], object], service: FakeService | None = None, **options) -> FakeService:
    """Run `work` on a thread with a client of a served fake."""

    async def scenario() -> FakeService:
        async with serving(service, **options) as running:

            def call() -> None:
                with openai.OpenAI(base_url=running.url + "/v1", api_key="key", max_retries=0) as client:
                    work(client)

            await asyncio.to_thread(call)
            return running.service

    return asyncio.run(scenario())


def test_a_request_whose_time_was_over_is_not_computed_again():
    def work(client: openai.OpenAI) -> None:
        with pytest.raises(openai.APIStatusError) as caught:
            client.with_options(max_retries=2).embeddings.create(
                model="any", input="a", extra_headers={"X-Request-Timeout": "50ms"}
            )
        assert caught.value.status_code == 504

    service = holding()
    with_client(work, service)
    assert len(service.requests) == 1


@pytest.mark.parametrize("extra", [{}, {"encoding_format": "float"}, {"encoding_format": "base64"}])
def test_vectors_arrive_in_every_mode(extra):
    def work(client: openai.OpenAI) -> None:
        reply = client.embeddings.create(model="any", input=["ab", "c"], **extra)
        assert reply.model == "tiny"
        assert (reply.usage.prompt_tokens, reply.usage.total_tokens) == (7, 7)
        assert [row.index for row in reply.data] == [0, 1]
        if extra.get("encoding_format") != "base64":  # asked for by name, the client leaves it undecoded
            assert reply.data[0].embedding == pytest.approx(vector_of("ab"), abs=1e-7)

    with_client(work)


@pytest.mark.parametrize("given", ["ab", "", [101, 6, 102], [[101, 6, 102], [101, 102]], ["ab", ""]])
def test_every_input_type_is_taken(given):
    def work(client: openai.OpenAI) -> None:
        reply = client.embeddings.create(model="any", input=given, dimensions=4, user="someone")
        assert {len(row.embedding) for row in reply.data} == {4}

    with_client(work)


def test_the_async_client_works():
    async def scenario():
        async with (
            serving() as running,
            openai.AsyncOpenAI(base_url=running.url + "/v1", api_key="key") as client,
        ):
            reply = await client.embeddings.create(model="any", input="ab")
            assert reply.data[0].embedding == pytest.approx(vector_of("ab"), abs=1e-7)
            assert [model.id async for model in client.models.list()] == ["tiny"]

    asyncio.run(scenario())


def test_models_are_listed_and_retrieved():
    def work(client: openai.OpenAI) -> None:
        assert [model.id for model in client.models.list()] == ["tiny"]
        assert client.models.retrieve("tiny").id == "tiny"

    with_client(work)


def test_a_bad_request_is_a_bad_request_error_with_code_and_param():
    def work(client: openai.OpenAI) -> None:
        with pytest.raises(openai.BadRequestError) as caught:
            client.embeddings.create(model="any", input="ab", dimensions=9)
        assert (caught.value.param, caught.value.code) == ("dimensions", "invalid_request")
        assert caught.value.type == "invalid_request_error"
        assert caught.value.request_id

    with_client(work)


def test_a_long_text_is_named():
    def work(client: openai.OpenAI) -> None:
        with pytest.raises(openai.BadRequestError, match=r"input 3 is too large .700 tokens") as caught:
            client.embeddings.create(model="any", input="ab")
        assert caught.value.code == "context_length_exceeded"

    with_client(work, failing(InputTooLong(3, 700, 512)))


def test_truncation_can_be_asked_for_and_seen():
    def work(client: openai.OpenAI) -> None:
        raw = client.embeddings.with_raw_response.create(
            model="any", input=["a" * 30, "b"], extra_body={"truncate": True}
        )
        assert raw.headers["X-Gguf-Embed-Truncated"] == "0"
        assert raw.parse().model_extra["truncated"] == [{"index": 0, "n_tokens": 32, "n_kept": 16, "n_dropped": 16}]

    with_client(work)


def test_a_wrong_key_is_an_authentication_error():
    def work(client: openai.OpenAI) -> None:
        with pytest.raises(openai.AuthenticationError) as caught:
            client.embeddings.create(model="any", input="ab")
        assert caught.value.code == "invalid_api_key"

    with_client(work, api_keys=("other",))


def test_the_right_key_passes():
    def work(client: openai.OpenAI) -> None:
        assert len(client.embeddings.create(model="any", input="ab").data) == 1

    with_client(work, api_keys=("other", "key"))


def test_a_strict_server_says_not_found():
    def work(client: openai.OpenAI) -> None:
        with pytest.raises(openai.NotFoundError) as caught:
            client.embeddings.create(model="text-embedding-3-small", input="ab")
        assert caught.value.code == "model_not_found"

    with_client(work, FakeService(strict_model=True))


def test_overload_is_a_rate_limit_error_with_retry_after():
    def work(client: openai.OpenAI) -> None:
        with pytest.raises(openai.RateLimitError) as caught:
            client.embeddings.create(model="any", input="ab")
        assert caught.value.response.headers["Retry-After"] == "7"

    with_client(work, failing(Overloaded("the queue is full", 7)))


def test_a_failing_engine_is_not_asked_again():
    service = failing(ZeroDivisionError())

    def work(client: openai.OpenAI) -> None:
        with pytest.raises(openai.InternalServerError):
            client.with_options(max_retries=3).embeddings.create(model="any", input="ab")

    with_client(work, service)
    assert len(service.requests) == 1
