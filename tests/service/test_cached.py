"""Requests on a service with a cache: the same answers as without one, from fewer computed texts."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import numpy as np
import pytest

from gguf_embed.engines.fake import FakeScript
from gguf_embed.errors import EngineFailure
from gguf_embed.types import EmbedRequest, EmbedResult, OutputSpec, Pooling, RerankRequest, Timings
from tests.service.test_engine_failures import RANKING
from tests.service.test_service import serving

MIB = 2**20


def n_computed(running) -> int:
    return sum(len(batch.texts) for batch in running.batches)


def facts(result: EmbedResult) -> tuple[object, ...]:
    """Everything but times."""
    plain = replace(result, output=None, timings=Timings())
    return plain, result.output.matrix.tobytes(), list(result.output.offsets)


FORMS = [
    {},
    {"dimensions": 3},
    {"embd_normalize": -1},
    {"embd_normalize": 1, "dimensions": 5},
    {"return_tokens": True},
    {"on_error": "skip"},
]


def test_all_forms_of_a_vector_share_an_entry_and_are_what_they_are_without_it(models):
    inputs = ("one", "two", "one", "three")
    with serving(models) as plain, serving(models, cache_bytes=MIB) as cached:
        for fields in (*FORMS, *reversed(FORMS)):
            assert facts(cached.embed(*inputs, **fields)) == facts(plain.embed(*inputs, **fields))
        assert n_computed(cached) == 3
        usage = cached.embed("one", "one").usage.prompt_tokens
        assert usage == plain.embed("one", "one").usage.prompt_tokens == 2 * len("<one>")


def test_poolings_have_entries_of_their_own_and_token_rows_none(models):
    with serving(models, cache_bytes=MIB) as running:
        for _ in range(2):
            for pooling in (Pooling.MEAN, Pooling.CLS, Pooling.RANK, Pooling.NONE):
                running.embed("text", pooling=pooling)
        assert n_computed(running) == 3 + 2


def test_models_have_entries_of_their_own(models):
    with serving(models, "one", "two", cache_bytes=MIB) as running:
        for name in ("one", "two", "one"):
            running.embed("text", model=name)
        assert n_computed(running) == 2


def test_what_was_computed_outlives_the_model(models):
    with serving(models, cache_bytes=MIB) as running:
        first = running.embed("text", keep_alive_s=0.0)
        running.loader.wait_until(lambda: running.loader.closed == ["encoder"])
        running.run(asyncio.sleep(0))  # the pool learns of it
        assert facts(running.embed("text")) == facts(first)
        assert len(running.loader.loads) == 2
        assert n_computed(running) == 1


def test_windows_of_a_long_text_are_found_too(models):
    long = "abcdefghijklmnopqrstuvwxyz" * 2
    with serving(models) as plain, serving(models, cache_bytes=MIB) as cached:
        for _ in range(2):
            result = cached.embed(long, long_input="chunk_mean")
            assert facts(result) == facts(plain.embed(long, long_input="chunk_mean"))
        assert n_computed(cached) == result.windowed[0].n_windows > 1


def test_pairs_of_query_and_document_are_found(models):
    request = RerankRequest("q", ("a", "b", "a"))
    with serving(models, pooling=Pooling.RANK, script=RANKING, cache_bytes=MIB) as running:
        first = running.run(running.service.rerank(request))
        again = running.run(running.service.rerank(replace(request, documents=("b", "a", "c"))))
        assert n_computed(running) == 3
    np.testing.assert_array_equal(again.scores[:2], first.scores[[1, 0]])


def test_with_skip_only_the_failed_text_is_missing_and_it_is_tried_again(models):
    with serving(models, script=FakeScript(nan=frozenset(b"?")), cache_bytes=MIB) as running:
        for _ in range(2):
            result = running.embed("a", "x?", "b", on_error="skip")
            assert [failure.index for failure in result.failures] == [1]
            with pytest.raises(EngineFailure, match="input 1: "):
                running.embed("a", "x?")
        good = [text for batch in running.batches for text in batch.texts if ord("?") not in text]
        assert len(good) == 4  # "a" and "b", with the bad one and then alone


def test_equal_requests_at_once_are_computed_once(models):
    async def ask(service):
        requests = [EmbedRequest(("same", "texts"), output=OutputSpec.of(Pooling.MEAN)) for _ in range(10)]
        return await asyncio.gather(*map(service.embed, requests))

    with serving(models, cache_bytes=MIB) as running:
        first, *others = running.run(ask(running.service))
        assert all(facts(other) == facts(first) for other in others)
        assert n_computed(running) == 2
