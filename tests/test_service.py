"""The use cases on the fake engine: order, repetitions, limits, truncation, what clients may ask of one request."""

import asyncio
import dataclasses
from contextlib import contextmanager

import numpy as np
import pytest

from gguf_embed.config import ModelConfig
from gguf_embed.engines.fake import FakeEngine, FakeScript
from gguf_embed.errors import InputTooLong, InvalidRequest, ModelNotFound, NotSupported
from gguf_embed.metrics import Metrics
from gguf_embed.registry.loading import Choices, LoadedModel
from gguf_embed.scheduler.batching import BatchLimits
from gguf_embed.scheduler.queue import QueueConfig
from gguf_embed.scheduler.scheduler import Scheduler
from gguf_embed.scheduler.worker import ContextPlan
from gguf_embed.service import EmbedService
from gguf_embed.tokens import LlamaTokenizer
from gguf_embed.types import EmbedRequest, Pooling
from tests.server.fake_service import MODEL

LIMIT = 16


@contextmanager
def serving(pooling=Pooling.MEAN, script=None, **config):
    engine = FakeEngine(script or FakeScript(pooling=pooling))
    metrics = Metrics()
    queue = QueueConfig(BatchLimits(32, 8), 2, 2, 2, max_queued_tokens=10_000, tokens_per_s=1000.0)
    scheduler = Scheduler(engine, queue, ContextPlan(32, 8, 64, 0), metrics)
    scheduler.start()
    info = dataclasses.replace(
        MODEL, name="fake", aliases=("other",), pooling=pooling, n_embd=8, max_input_tokens=LIMIT, n_vocab=258
    )
    choices = Choices(2, 2, 32, 2, "on", "ggml", measured=False)
    loaded = LoadedModel(ModelConfig(**config), info, choices, engine, LlamaTokenizer(engine), scheduler)
    service = EmbedService(loaded, metrics)
    try:
        yield service, engine, metrics
    finally:
        service.close()


def embed(service, *inputs, **fields):
    return asyncio.run(service.embed(EmbedRequest(tuple(inputs), **fields)))


def test_rows_come_in_the_order_of_the_inputs_and_unit_length():
    with serving() as (service, _, _):
        together = embed(service, "one", "two", "three")
        alone = [embed(service, text).vectors[0] for text in ("one", "two", "three")]
    np.testing.assert_allclose(together.vectors, alone, rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(together.vectors, axis=1), 1.0, rtol=1e-6)
    assert together.row_offsets == (0, 1, 2, 3)


def test_equal_inputs_are_computed_once_and_counted_as_sent():
    with serving() as (service, engine, metrics):
        result = embed(service, "same", "other", "same")
    assert sum(len(batch.texts) for batch in engine.batches) == 2
    np.testing.assert_array_equal(result.vectors[0], result.vectors[2])
    assert result.usage.prompt_tokens == 2 * len(engine.batches[0].texts[0]) + len("other") + 2
    assert b"gguf_embed_duplicate_texts_total 1.0" in metrics.render()


def test_a_text_that_is_too_long_is_named_with_its_length_and_the_limit():
    with serving() as (service, _, _), pytest.raises(InputTooLong) as caught:
        embed(service, "short", "x" * 40)
    assert (caught.value.index, caught.value.n_tokens, caught.value.limit) == (1, 42, LIMIT)


@pytest.mark.parametrize(("server", "request_says"), [(False, True), (True, None)])
def test_truncation_is_visible_and_keeps_the_closing_token(server, request_says):
    with serving(truncate=server) as (service, engine, _):
        result = embed(service, "short", "x" * 40, truncate=request_says)
    (cut,) = result.truncated
    assert (cut.index, cut.n_tokens, cut.n_kept, cut.n_dropped) == (1, 42, LIMIT, 26)
    longest = max((text for batch in engine.batches for text in batch.texts), key=len)
    assert longest[-1] == engine.vocabulary().eos_id


def test_a_request_may_refuse_the_servers_truncation():
    with serving(truncate=True) as (service, _, _), pytest.raises(InputTooLong):
        embed(service, "x" * 40, truncate=False)


def test_token_rows_are_one_per_token_and_never_normalised():
    with serving() as (service, _, _):
        result = embed(service, "ab", "c", pooling=Pooling.NONE, embd_normalize=2)
    assert result.row_offsets == (0, 4, 7)
    assert result.vectors.shape == (7, 8)
    assert not np.allclose(np.linalg.norm(result.vectors, axis=1), 1.0)


@pytest.mark.parametrize("dimensions", [0, -1, 9])
def test_dimensions_beyond_the_model_are_refused(dimensions):
    with serving() as (service, _, _), pytest.raises(InvalidRequest, match="this model has 8"):
        embed(service, "text", dimensions=dimensions)


def test_dimensions_cut_and_renormalise():
    with serving() as (service, _, _):
        whole, cut = embed(service, "text").vectors[0], embed(service, "text", dimensions=3).vectors[0]
    np.testing.assert_allclose(cut, whole[:3] / np.linalg.norm(whole[:3]), rtol=1e-5)


def test_rank_and_vectors_exclude_each_other():
    with serving() as (service, _, _), pytest.raises(NotSupported, match="pooling rank"):
        embed(service, "text", pooling=Pooling.RANK)


def test_names_count_only_when_they_are_strict():
    with serving() as (service, _, _):
        assert service.resolve("anything").name == "fake"
    with serving(strict_name=True) as (service, _, _):
        assert {service.resolve(name).name for name in (None, "fake", "other")} == {"fake"}
        with pytest.raises(ModelNotFound, match="'wrong' is not served"):
            service.resolve("wrong")


def test_too_many_token_rows_are_refused_before_they_are_computed(monkeypatch):
    monkeypatch.setattr("gguf_embed.service.MAX_TOKEN_ROWS", 100)
    with serving() as (service, engine, _), pytest.raises(InvalidRequest, match="fewer texts"):
        embed(service, "abcdef", pooling=Pooling.NONE)
    assert not engine.batches


def test_a_dead_worker_shows_in_the_state():
    with serving(script=FakeScript(deadly=frozenset({ord("!")}))) as (service, _, _):
        with pytest.raises(Exception, match="restart the server"):
            embed(service, "!")
        assert service.state().status == "failed"
        assert "restart" in service.state().detail


def test_unknown_ids_are_the_clients_mistake():
    with serving() as (service, _, _):
        assert service.token_bytes(ord("a")) == b"a"
        assert asyncio.run(service.detokenize([])) == ""
        with pytest.raises(InvalidRequest, match="token id 258 is not in"):
            service.token_bytes(258)
        with pytest.raises(InvalidRequest, match="token id -1 is not in"):
            asyncio.run(service.detokenize([97, -1]))
