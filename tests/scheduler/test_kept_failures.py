"""Requests that go on without the texts that failed."""

from __future__ import annotations

import asyncio
from random import Random

import numpy as np
import pytest

from gguf_embed.engines.fake import FakeEngine, FakeScript
from gguf_embed.errors import EngineFailure, Unavailable
from gguf_embed.vectors import Rows
from tests.scheduler.builders import MEAN
from tests.scheduler.test_scheduler import DEADLY, POISON, SLOW, Gate, mean_rows, occupied, random_texts, run, running


def test_the_failed_text_is_named_and_the_others_have_their_rows():
    with running(FakeEngine(FakeScript(poison=frozenset({POISON})))) as scheduler:
        texts = [[1, 2], [3, POISON], [4]]
        submission = run(scheduler.submit(texts, MEAN))
    assert list(submission.failures) == [1]
    assert isinstance(submission.failures[1], EngineFailure)
    assert submission.outputs[1] is None
    joined = Rows.join(submission.outputs)
    assert joined.offsets == (0, 1, 1, 2)
    np.testing.assert_array_equal(joined.matrix, mean_rows([[1, 2], [4]]))


def test_all_texts_may_fail():
    with running(FakeEngine(FakeScript(poison=frozenset({POISON})))) as scheduler:
        submission = run(scheduler.submit([[POISON], [POISON, 1]], MEAN))
    assert sorted(submission.failures) == [0, 1]


@pytest.mark.parametrize("seed", range(8))
def test_any_mixture_is_sorted_out_among_other_requests(seed):
    random = Random(seed)
    requests = []
    for _ in range(6):
        texts = random_texts(random)
        bad = {index for index in range(len(texts)) if random.random() < 0.3}
        requests.append(([[*text, POISON] if i in bad else _without_poison(text) for i, text in enumerate(texts)], bad))

    async def scenario():
        with running(FakeEngine(FakeScript(poison=frozenset({POISON})))) as scheduler:
            asked = (scheduler.submit(texts, MEAN) for texts, _ in requests)
            return await asyncio.gather(*asked)

    for (texts, bad), submission in zip(requests, run(scenario()), strict=True):
        assert set(submission.failures) == bad
        for index, text in enumerate(texts):
            if index not in bad:
                np.testing.assert_allclose(submission.outputs[index].matrix, mean_rows([text]), rtol=1e-6)


def _without_poison(text: list[int]) -> list[int]:
    return [token if token not in (POISON, DEADLY, SLOW) else 1 for token in text]


def test_a_dead_worker_is_an_error_of_the_whole_request():
    engine = FakeEngine(FakeScript(deadly=frozenset({DEADLY})))
    with running(engine, n_workers=1) as scheduler, pytest.raises(Unavailable):
        run(scheduler.submit([[1], [DEADLY]], MEAN))


def test_a_client_that_leaves_has_its_waiting_texts_dropped():
    gate = Gate()
    engine = FakeEngine(FakeScript(before_batch=gate))

    async def scenario():
        with running(engine, n_workers=1) as scheduler:
            first = await occupied(scheduler, gate)
            second = asyncio.create_task(scheduler.submit([[5], [6, POISON]], MEAN))
            await asyncio.sleep(0)
            assert scheduler.state().n_texts == 2
            second.cancel()
            with pytest.raises(asyncio.CancelledError):
                await second
            gate.opened.set()
            await first
            return await scheduler.submit([[7]], MEAN)

    assert run(scenario()).failures == {}
    assert not any(5 in text for batch in engine.batches for text in batch.texts)
