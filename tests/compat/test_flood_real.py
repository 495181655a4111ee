"""More work at once than the queue holds, from the official client: nothing is lost."""

from __future__ import annotations

import asyncio
import random

import httpx
import openai
import pytest

N_REQUESTS = 200
QUEUE_TOKENS = 2_000
TEXTS = 7  # of 59 tokens: some 410 in a request


def texts(chance: random.Random) -> list[str]:
    return [" ".join(chance.choice("abcdefghij") for _ in range(57)) for _ in range(TEXTS)]


@pytest.mark.process
@pytest.mark.parametrize(
    ("max_wait", "max_retries", "is_refused"),
    [
        ("5s", openai.DEFAULT_MAX_RETRIES, False),
        ("0", 8, True),  # the queue holds what is computed in some milliseconds, and no more precise are the clients
    ],
)
def test_a_flood_is_answered_within_the_client_s_patience(launch, models, max_wait, max_retries, is_refused):
    server = launch("-m", models / "encoder.gguf", "--max-queue-tokens", str(QUEUE_TOKENS), "--max-wait", max_wait)
    statuses: list[int] = []

    async def note(response: httpx.Response) -> None:
        statuses.append(response.status_code)

    async def scenario() -> list[object]:
        http = openai.DefaultAsyncHttpxClient(event_hooks={"response": [note]})
        chance = random.Random(13)
        async with openai.AsyncOpenAI(
            base_url=server.url + "/v1", api_key="unused", http_client=http, max_retries=max_retries
        ) as client:
            one = await client.embeddings.create(model="any", input=texts(chance))
            assert one.usage.prompt_tokens == pytest.approx(410, abs=10)
            statuses.clear()
            requests = [client.embeddings.create(model="any", input=texts(chance)) for _ in range(N_REQUESTS)]
            return await asyncio.gather(*requests, return_exceptions=True)

    replies = asyncio.run(scenario())
    lost = [reply for reply in replies if isinstance(reply, BaseException)]
    assert lost == []
    assert all(len(reply.data) == TEXTS for reply in replies)
    assert len(statuses) <= 3 * N_REQUESTS
    if is_refused:
        assert statuses.count(429) > 0
    metrics = server.get("/metrics").body.decode()
    assert f'gguf_embed_queue_limit_tokens{{model="encoder"}} {float(QUEUE_TOKENS)}' in metrics
