"""A job's texts, embedded on one or several servers that are busy, fail, die and come back."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gguf_embed.embedder import lanes
from gguf_embed.errors import AuthenticationFailed, ConfigError, EmbedError, Unavailable
from gguf_embed.ingest.pool.base import EmbedPool
from gguf_embed.ingest.pool.endpoints import EndpointOptions, EndpointPool
from tests.embedder.misbehaving import (
    HTML,
    TRUNCATED_JSON,
    Misbehaving,
    cut_off,
    status,
    vector_of,
)
from tests.server_process import wait_until

LONG = "the " * 100


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch):
    monkeypatch.setattr(lanes, "FIRST_PAUSE_S", 0.02)


@pytest.fixture
def open_pool() -> Iterator[Callable[..., EndpointPool]]:
    opened: list[EndpointPool] = []

    def open_(*servers: Misbehaving | str, **arguments: Any) -> EndpointPool:
        urls = [server if isinstance(server, str) else server.url for server in servers]
        opened.append(EndpointPool(urls, EndpointOptions(**arguments)))
        return opened[-1]

    yield open_
    for pool in opened:
        pool.close()


def texts_of(n_texts, name="text"):
    return [f"{name} {number}" for number in range(n_texts)]


def check(found, texts, failed=()):
    """Each vector is that of its text, zeros for those that failed."""
    expected = np.stack([vector_of(text) * (text not in failed) for text in texts])
    np.testing.assert_allclose(found.vectors, expected, atol=1e-6)
    assert [texts[index] for index in found.failures] == [text for text in texts if text in failed]


def test_our_server_tells_its_facts_and_gives_the_vectors_of_a_local_pool(tiny_server, open_pool):
    pool: EmbedPool = open_pool(tiny_server.url)
    facts = pool.facts
    assert (facts.name, facts.dimensions, facts.pooling, facts.max_tokens) == ("encoder", 32, "mean", 64)
    assert (facts.normalized, facts.prompt, facts.fingerprint) == (True, "", "")
    found = pool.embed(["hello", LONG, "cat"])
    assert list(found.failures) == [1]
    assert found.failures[1].startswith(f"was refused by {tiny_server.url}: it is too large (102 tokens, the limit")
    np.testing.assert_allclose(found.vectors[[0, 2]], tiny_server.embed(["hello", "cat"]), atol=1e-6)
    assert found.n_tokens == 6
    assert pool.token_offsets("hello  cat") == [(0, 5), (7, 10)]
    assert pool.embed([]).vectors.shape == (0, 32)


def test_prompts_dimensions_and_truncation_are_applied(launch, models, open_pool):
    server = launch("-m", models / "encoder.gguf", "--engine", "llama", "--prompt", "document=a red ")
    pool = open_pool(server.url, dimensions=8, truncate=True)
    assert (pool.facts.prompt, pool.facts.dimensions) == ("a red ", 8)
    np.testing.assert_allclose(pool.embed(["mat"]).vectors, server.embed("a red mat", dimensions=8), atol=1e-5)
    assert pool.embed([LONG]).failures == {}
    other = open_pool(server.url, prompt="query", prompts={"query": "the cat: "})
    assert other.facts.prompt == "the cat: "


def test_a_server_of_another_kind_tells_little_and_has_no_offsets(misbehaving, open_pool):
    pool = open_pool(misbehaving(), model="m")
    assert (pool.facts.name, pool.facts.fingerprint, pool.facts.pooling, pool.facts.max_tokens) == ("m", "", "", None)
    assert pool.token_offsets("a") is None
    check(pool.embed(texts_of(5)), texts_of(5))


def test_teis_info_is_used(misbehaving, open_pool):
    info = {
        "model_id": "BAAI/bge",
        "model_sha": "abc",
        "max_input_length": 512,
        "max_client_batch_size": 32,
        "model_type": {"embedding": {"pooling": "cls"}},
    }
    tokens = [[{"id": 1, "text": "a", "special": False, "start": 0, "stop": 1}]]
    pool = open_pool(misbehaving(routes={"/info": info, "/tokenize": tokens}))
    facts = pool.facts
    assert (facts.name, facts.fingerprint, facts.pooling) == ("BAAI/bge", "revision:abc", "cls")
    assert (facts.max_tokens, pool.batch_texts) == (512, 32)
    assert pool.token_offsets("a") == [(0, 1)]


@pytest.mark.parametrize(
    "act",
    [HTML, TRUNCATED_JSON, cut_off, status(500), status(503), status(429)],
    ids=["html", "truncated", "cut off", "500", "503", "429"],
)
def test_what_is_temporary_is_tried_again(misbehaving, open_pool, act):
    server = misbehaving()
    pool = open_pool(server)
    server.script = [act, act]
    check(pool.embed(texts_of(5)), texts_of(5))


def test_all_requests_wait_while_a_server_is_busy(misbehaving, open_pool):
    """One shared pause for each server: what other threads send waits, too."""
    server = misbehaving(pause_s=0.01)
    pool = open_pool(server)
    pool.embed(["warm"])
    n_before = len(server.sent)
    server.script = [status(429, Retry_After="1")] * 2
    with ThreadPoolExecutor(pool.n_at_once) as executor:
        found = list(executor.map(pool.embed, [texts_of(3, f"batch {number}") for number in range(12)]))
    for number, embedded in enumerate(found):
        check(embedded, texts_of(3, f"batch {number}"))
    times = [sent.at_s for sent in server.sent[n_before:]]
    n_refused = sum(at < times[0] + 0.5 for at in times)
    assert n_refused <= pool.n_at_once
    assert not [at for at in times if times[0] + 0.5 < at < times[0] + 1.0]


def test_the_requests_in_flight_are_limited_for_each_server(misbehaving, open_pool):
    servers = [misbehaving(pause_s=0.02), misbehaving(pause_s=0.02)]
    pool = open_pool(*servers, n_at_once=2)
    assert pool.n_at_once == 4
    with ThreadPoolExecutor(12) as executor:
        list(executor.map(pool.embed, [[text] for text in texts_of(40)]))
    assert [server.most_running for server in servers] == [2, 2]
    assert min(len(server.sent) for server in servers) >= 10


@pytest.mark.parametrize("code", [400, 413, 422])
@pytest.mark.parametrize("n_bad", [1, 3])
def test_a_text_that_a_server_refuses_is_found_and_the_others_are_embedded(misbehaving, open_pool, code, n_bad):
    bad = ["text 3", "text 17", "text 18"][:n_bad]
    server = misbehaving(refuse=lambda texts: status(code, "bad text") if set(bad) & set(texts) else None)
    pool = open_pool(server)
    found = pool.embed(texts_of(32))
    check(found, texts_of(32), bad)
    assert found.failures[3] == f"was refused by {server.url}: bad text (HTTP {code})"
    assert len(server.sent) < 40


@pytest.mark.parametrize("headers", [{}, {"x_should_retry": "false"}], ids=["silent", "final"])
def test_a_text_that_breaks_a_server_is_found_and_the_others_are_embedded(misbehaving, open_pool, headers):
    server = misbehaving(refuse=lambda texts: status(500, "crash", **headers) if "text 3" in texts else None)
    found = open_pool(server, give_up_s=30).embed(texts_of(8))
    check(found, texts_of(8), ["text 3"])
    assert "crash" in found.failures[3]


def test_a_server_that_hangs_on_a_text_is_not_waited_for_for_ever(misbehaving, open_pool):
    async def hang(request, body):
        await asyncio.sleep(60)

    server = misbehaving(refuse=lambda texts: hang if "text 1" in texts else None)
    found = open_pool(server, timeout_s=0.1).embed(texts_of(2))
    check(found, texts_of(2), ["text 1"])
    assert "did not answer within 0.1 s" in found.failures[1]


@pytest.mark.parametrize(("code", "error"), [(401, AuthenticationFailed), (403, EmbedError), (404, EmbedError)])
def test_a_wrong_key_or_model_ends_the_job_at_once(misbehaving, open_pool, code, error):
    server = misbehaving()
    pool = open_pool(server, api_key="sk-123")
    server.refuse = lambda texts: status(code, "never sk-123")
    n_before = len(server.sent)
    with pytest.raises(error, match="never …") as caught:
        pool.embed(texts_of(8))
    assert len(server.sent) == n_before + 1
    assert "sk-123" not in str(caught.value)


def test_the_work_of_a_dead_server_goes_to_the_others_and_back_when_it_lives(misbehaving, open_pool):
    one, other = misbehaving(pause_s=0.01), misbehaving(pause_s=0.01)
    pool = open_pool(one, other)
    pool.embed(texts_of(4))
    one.stop()
    with ThreadPoolExecutor(pool.n_at_once) as executor:
        batches = [texts_of(3, f"batch {number}") for number in range(30)]
        for embedded, batch in zip(executor.map(pool.embed, batches), batches, strict=True):
            check(embedded, batch)
        back = misbehaving(port=one.port, pause_s=0.01)
        deadline_s = time.monotonic() + 10
        while not back.sent and time.monotonic() < deadline_s:
            list(executor.map(pool.embed, batches[:4]))
    assert back.sent


def test_when_nothing_succeeds_for_too_long_the_job_ends(misbehaving, open_pool):
    server = misbehaving()
    pool = open_pool(server, give_up_s=0.5)
    server.refuse = lambda texts: status(503, "down for repair")
    started_s = time.monotonic()
    with pytest.raises(Unavailable, match=r"down for repair \(HTTP 503\); no request has succeeded for 0.5 s"):
        pool.embed(texts_of(3))
    assert 0.4 < time.monotonic() - started_s < 5
    server.refuse = lambda texts: None
    check(pool.embed(texts_of(3)), texts_of(3))


def test_idle_time_is_not_counted_as_time_without_success(misbehaving, open_pool, monkeypatch):
    server = misbehaving()
    pool = open_pool(server, give_up_s=30)
    clock = time.monotonic
    monkeypatch.setattr(lanes, "time", SimpleNamespace(monotonic=lambda: clock() + 60))
    server.script = [status(503)]
    check(pool.embed(texts_of(3)), texts_of(3))


def test_a_pause_longer_than_the_patience_ends_the_job(misbehaving, open_pool):
    server = misbehaving()
    pool = open_pool(server, give_up_s=0.3)
    server.refuse = lambda texts: status(429, "tomorrow", Retry_After="86400")
    with pytest.raises(Unavailable, match="tomorrow"):
        pool.embed(["a"])


def test_servers_with_different_models_are_refused(misbehaving, open_pool):
    one, other = misbehaving(pause_s=0.05), misbehaving(seed="another model", pause_s=0.05)
    pool = open_pool(one, other)
    with (
        ThreadPoolExecutor(8) as executor,
        pytest.raises(ConfigError, match="all servers of a job must have the same model"),
    ):
        list(executor.map(pool.embed, [[text] for text in texts_of(16)]))


def test_a_server_that_is_down_at_the_start_does_not_matter_if_another_one_is_up(misbehaving, open_pool):
    pool = open_pool("http://127.0.0.1:9", misbehaving())
    check(pool.embed(texts_of(3)), texts_of(3))


@pytest.mark.parametrize(
    ("urls", "error", "message"),
    [
        ([], ConfigError, "at least one URL"),
        (["host:1"], ConfigError, "write it like http"),
        (["http://127.0.0.1:9"], Unavailable, "cannot be reached: Connection refused; no request has succeeded"),
    ],
)
def test_a_pool_without_a_server_is_refused(urls, error, message):
    before = threading.enumerate()
    with pytest.raises(error, match=message):
        EndpointPool(urls, EndpointOptions(give_up_s=0.2))
    assert threading.enumerate() == before


def test_what_all_servers_refuse_is_said_at_the_start(misbehaving, open_pool):
    server = misbehaving(refuse=lambda texts: status(400, "no such dimensions"))
    with pytest.raises(ConfigError, match=r"a first text was refused: .*no such dimensions"):
        open_pool(server, dimensions=7)


def test_close_does_not_wait_for_a_server(misbehaving, open_pool):
    before = threading.enumerate()
    server = misbehaving()
    pool = open_pool(server)
    server.refuse = lambda texts: status(503, Retry_After="100")
    n_before = len(server.sent)
    with ThreadPoolExecutor(1) as executor:
        waiting = executor.submit(pool.embed, ["a"])
        wait_until(lambda: len(server.sent) > n_before)
        started_s = time.monotonic()
        pool.close()
        assert time.monotonic() - started_s < 2
        with pytest.raises(Unavailable, match="was closed"):
            waiting.result(timeout=5)
    server.stop()
    assert [thread for thread in threading.enumerate() if thread not in before] == []
