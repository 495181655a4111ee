"""What a client does with a server that is busy, fails or sends half a reply."""

from __future__ import annotations

import datetime
import email.utils
import time

import numpy as np
import pytest

from gguf_embed.embedder import client as module
from gguf_embed.embedder.endpoint_errors import retry_after_s
from gguf_embed.errors import EmbedError, Overloaded, Unavailable
from tests.embedder.misbehaving import HTML, TRUNCATED_JSON, cut_off, status, vector_of


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch):
    monkeypatch.setattr(module, "FIRST_WAIT_S", 0.01)


@pytest.mark.parametrize(
    "act",
    [
        *(HTML, TRUNCATED_JSON, cut_off, status(500), status(502), status(503), status(408), status(429)),
        status(504, x_should_retry="false"),  # says nothing about the texts
    ],
    ids=["html", "truncated", "cut off", "500", "502", "503", "408", "429", "504"],
)
def test_what_is_temporary_is_tried_again(misbehaving, client, act):
    server = misbehaving(act, act)
    np.testing.assert_allclose(client(server.url).embed("x"), vector_of("x"), atol=1e-6)
    assert len(server.sent) == 3


def test_a_busy_server_is_left_alone_as_long_as_it_says(misbehaving, client):
    server = misbehaving(status(429, Retry_After="1"))
    client(server.url).embed("x")
    assert 1.0 <= server.sent[1].at_s - server.sent[0].at_s < 1.8


def test_a_pause_that_is_too_long_is_the_callers_decision(misbehaving, client):
    server = misbehaving(status(429, "slow down", Retry_After="3600"))
    with pytest.raises(Overloaded, match=r"slow down \(HTTP 429\); it wants a pause of 3600 s") as caught:
        client(server.url).embed("x")
    assert caught.value.retry_after_s == 3600
    assert len(server.sent) == 1


def test_tries_are_limited(misbehaving, client):
    server = misbehaving(*[status(500, "broken")] * 10)
    with pytest.raises(Unavailable, match=r"broken \(HTTP 500\); tried 4 times"):
        client(server.url, max_retries=3).embed("x")
    assert len(server.sent) == 4


@pytest.mark.parametrize("code", [400, 401, 403, 404, 405, 413, 422, 501])
def test_what_would_fail_again_is_not_tried_again(misbehaving, client, code):
    server = misbehaving(status(code, "never"))
    with pytest.raises(EmbedError, match=f"never \\(HTTP {code}\\)"):
        client(server.url).embed("x")
    assert len(server.sent) == 1


def test_a_server_may_say_that_a_failure_is_final(misbehaving, client):
    server = misbehaving(status(500, "the engine failed", x_should_retry="false"))
    with pytest.raises(EmbedError, match="the engine failed"):
        client(server.url).embed("x")
    assert len(server.sent) == 1


def test_a_server_that_does_not_answer_is_given_up(misbehaving, client):
    async def hang(request, body):
        import asyncio

        await asyncio.sleep(60)

    server = misbehaving(hang, hang)
    started_s = time.monotonic()
    with pytest.raises(Unavailable, match=r"did not answer within 0.2 s; tried 2 times"):
        client(server.url, timeout_s=0.2, max_retries=1).embed("x")
    assert time.monotonic() - started_s < 5


def test_a_redirect_is_not_followed(misbehaving, client):
    server = misbehaving(status(307, Location="http://elsewhere/v1/embeddings"))
    with pytest.raises(EmbedError, match="redirects to http://elsewhere/v1/embeddings: use that URL"):
        client(server.url, api_key="k").embed("x")


def test_retry_after_may_be_a_date():
    now = datetime.datetime.now(datetime.UTC)
    later, earlier = (
        email.utils.format_datetime(now + datetime.timedelta(seconds=seconds), usegmt=True) for seconds in (100, -100)
    )
    assert retry_after_s({"Retry-After": later}) == pytest.approx(100, abs=5)
    assert retry_after_s({"Retry-After": earlier}) == 0.0


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, None),
        ({"Retry-After": "7"}, 7.0),
        ({"Retry-After": "0.5"}, 0.5),
        ({"Retry-After": "-3"}, 0.0),
        ({"Retry-After": "soon"}, None),
        ({"retry-after-ms": "250", "Retry-After": "1"}, 0.25),
    ],
)
def test_retry_after_is_read_in_all_its_forms(headers, expected):
    assert retry_after_s(headers) == expected
