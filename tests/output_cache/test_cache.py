"""Equal texts are computed once: found again, or waited for while they are computed for another request."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random

import pytest

from gguf_embed.engines.fake import FakeEngine, FakeScript
from gguf_embed.errors import EngineFailure, Overloaded
from gguf_embed.metrics import Metrics
from gguf_embed.output_cache.cache import ENTRY_BYTES, OutputCache
from gguf_embed.output_cache.disk import DiskRows
from gguf_embed.scheduler.scheduler import Scheduler
from gguf_embed.types import CALLER, Caller, Priority
from gguf_embed.vectors import Rows
from tests.scheduler.builders import MEAN, SCORE, TOKEN_ROWS
from tests.scheduler.test_scheduler import POISON, SAFETY_S, SLOW, Gate, mean_rows, run, running

KIB = 2**10
ANYONE = Caller()


@dataclass
class Model:
    """What the cache sees of one."""

    scheduler: Scheduler
    cache_key: str = "model"


@dataclass
class Serving:
    """A model on the fake engine, with a cache."""

    engine: FakeEngine
    model: Model
    cache: OutputCache
    metrics: Metrics
    gate: Gate
    tasks: list[asyncio.Task] = field(default_factory=list)

    def ask(self, *texts, output=MEAN, caller=ANYONE):
        """A request of this caller's, begun; it is a task."""

        async def submit():
            CALLER.set(caller)
            return await self.cache.submit(self.model, texts, output)

        return asyncio.ensure_future(submit())

    async def until_queued(self, n_texts: int) -> None:
        """While the gate is shut."""
        while self.model.scheduler.state().n_texts != n_texts:  # noqa: ASYNC110  # the queue has no event for it
            await asyncio.sleep(0)

    @property
    def texts_run(self) -> list[tuple[int, ...]]:
        return [text for batch in self.engine.batches for text in batch.texts]

    def count(self, outcome: str) -> float:
        name = "gguf_embed_cache_texts_total"
        return self.metrics.registry.get_sample_value(name, {"outcome": outcome}) or 0.0


@contextmanager
def serving(memory_bytes=64 * KIB, n_workers=1, disk=None, script=None, **settings) -> Iterator[Serving]:
    gate, metrics = Gate(), Metrics()
    engine = FakeEngine(script or FakeScript(before_batch=gate, poison=frozenset({POISON}), n_cls_out=1))
    with running(engine, n_workers=n_workers, **settings) as scheduler:
        cache = OutputCache(memory_bytes, metrics, disk)
        yield Serving(engine, Model(scheduler), cache, metrics, gate)
        cache.close()


def rows_of(submission):
    return Rows.join(submission.outputs).matrix


def test_a_text_is_computed_once_and_found_with_the_same_bytes():
    async def main():
        first = await served.ask([1, 2], [3])
        again = await served.ask([3], [4], [1, 2], [3])
        return first, again

    with serving() as served:
        first, again = run(main())
        assert served.texts_run == [(1, 2), (3,), (4,)]
        assert rows_of(again)[[2, 0]].tobytes() == rows_of(first).tobytes()
        assert rows_of(again).tobytes() == mean_rows([[3], [4], [1, 2], [3]]).tobytes()
        assert again.n_tokens == [1, 1, 2, 1]
        assert (served.count("hit"), served.count("miss"), served.count("joined")) == (3, 3, 0)


@pytest.mark.parametrize("change", ["output", "scope", "model"])
def test_what_differs_is_computed(change):
    async def main():
        await served.ask([1])
        if change == "model":
            served.model.cache_key = "another file"
        caller = Caller(cache_scope="another key") if change == "scope" else Caller()
        await served.ask([1], output=SCORE if change == "output" else MEAN, caller=caller)

    with serving() as served:
        run(main())
        assert served.texts_run == [(1,), (1,)]


@pytest.mark.parametrize("case", ["no store", "token rows", "no key"])
def test_what_is_not_kept(case):
    async def main():
        for _ in range(2):
            caller = Caller(cache_scope=None) if case == "no store" else Caller()
            await served.ask([1], output=TOKEN_ROWS if case == "token rows" else MEAN, caller=caller)

    with serving() as served:
        if case == "no key":
            served.model.cache_key = ""
        run(main())
        assert served.texts_run == [(1,), (1,)]
        assert served.count("miss") == 0


def test_concurrent_requests_compute_equal_texts_once():
    async def main():
        blocker = served.ask([SLOW])
        await served.gate.wait_until_entered()
        asked = [served.ask([1, 2], [3]) for _ in range(20)] + [served.ask([3], [4, 5])]
        await served.until_queued(3)
        served.gate.opened.set()
        return await asyncio.gather(blocker, *asked)

    with serving() as served:
        _, *submissions, mixed = run(main())
        assert sorted(served.texts_run) == [(1, 2), (3,), (4, 5), (SLOW,)]
        for submission in submissions:
            assert rows_of(submission).tobytes() == mean_rows([[1, 2], [3]]).tobytes()
        assert rows_of(mixed).tobytes() == mean_rows([[3], [4, 5]]).tobytes()
        assert (served.count("joined"), served.count("miss")) == (39, 4)


@pytest.mark.parametrize("n_leaving", [1, 2, 3])
def test_work_goes_on_while_somebody_waits_for_it(n_leaving):
    """The first asked for it; whoever leaves, the others are answered. Without anybody it is dropped."""

    async def main():
        blocker = served.ask([SLOW])
        await served.gate.wait_until_entered()
        asked = [served.ask([1, 2]) for _ in range(3)]
        await served.until_queued(1)
        for request in asked[:n_leaving]:
            request.cancel()
        await asyncio.wait(asked[:n_leaving])
        served.gate.opened.set()
        return await asyncio.gather(blocker, *asked, return_exceptions=True)

    with serving() as served:
        _, *outcomes = run(main())
        assert [isinstance(outcome, asyncio.CancelledError) for outcome in outcomes] == [
            number < n_leaving for number in range(3)
        ]
        assert served.texts_run == [(SLOW,)] + [(1, 2)] * (n_leaving < 3)
        assert not served.cache._flights


def test_a_failure_is_told_to_each_and_not_kept():
    async def main():
        blocker = served.ask([SLOW])
        await served.gate.wait_until_entered()
        asked = [served.ask([1], [POISON]) for _ in range(3)]
        await served.until_queued(2)
        served.gate.opened.set()
        _, *submissions = await asyncio.gather(blocker, *asked)
        n_before = len(served.texts_run)
        return [*submissions, await served.ask([1], [POISON])], n_before

    with serving() as served:
        submissions, n_before = run(main())
        for submission in submissions:
            assert list(submission.failures) == [1]
            assert isinstance(submission.failures[1], EngineFailure)
            assert submission.outputs[0].matrix.tobytes() == mean_rows([[1]]).tobytes()
        assert served.texts_run[n_before:] == [(POISON,), (POISON,)]  # computed anew, and once more alone


def test_who_waits_for_a_refused_request_asks_for_itself():
    """A refusal concerns the request that got it: the others have their own, or room."""

    async def main():
        blocker = served.ask([SLOW])
        await served.gate.wait_until_entered()
        filler = served.ask([5] * 40, caller=Caller("another client"))
        await served.until_queued(1)
        first, second = (served.ask([1] * 30) for _ in range(2))
        outcomes = await asyncio.gather(first, second, return_exceptions=True)
        third = served.ask([1] * 30)
        third.cancel()
        served.gate.opened.set()
        await asyncio.gather(blocker, filler)
        return outcomes, await served.ask([1] * 30)

    with serving(max_queued_tokens=50) as served:
        (first, second), later = run(main())
        assert isinstance(first, Overloaded)
        assert isinstance(second, Overloaded)
        assert first is not second
        assert later.failures == {}
        assert not served.cache._flights


HURRIED, JOB = Caller(priority=Priority.HIGH), Caller(priority=Priority.BATCH)


@pytest.mark.parametrize(
    ("first", "second", "n_computed"),
    [
        ((Caller(), [[1]]), (Caller(), [[1]]), 1),
        ((Caller(), [[1]]), (Caller(), [[2], [1]]), 1),
        ((Caller(), [[2], [1]]), (Caller(), [[1]]), 2),  # a query does not wait for a bulk request
        ((HURRIED, [[1]]), (JOB, [[1]]), 1),
        ((JOB, [[1]]), (HURRIED, [[1]]), 2),  # nor for a less urgent one
        ((Caller("a"), [[1]]), (Caller("b"), [[1]]), 2),  # nor for another client's share
    ],
)
def test_nobody_waits_for_what_may_be_done_later_than_his_own(first, second, n_computed):
    async def main():
        blocker = served.ask([SLOW])
        await served.gate.wait_until_entered()
        asked = [served.ask(*texts, caller=caller) for caller, texts in (first, second)]
        await served.until_queued(n_computed + ([2] in first[1] + second[1]))
        served.gate.opened.set()
        return await asyncio.gather(blocker, *asked)

    with serving() as served:
        run(main())
        assert served.texts_run.count((1,)) == n_computed


def test_memory_is_bounded_and_counted():
    row_bytes = 8 * 4 + ENTRY_BYTES

    async def main():
        for token in range(10):
            await served.ask([token])
        await served.ask([9])
        await served.ask([0])

    with serving(memory_bytes=3 * row_bytes) as served:
        run(main())
        assert len(served.texts_run) == 11
        text = served.metrics.render().decode()
        assert f"gguf_embed_cache_bytes {3.0 * row_bytes}" in text
        assert "gguf_embed_cache_entries 3.0" in text
        assert "gguf_embed_cache_evictions_total 8.0" in text


def test_what_an_entry_takes_was_measured_well():
    """The size that is counted is no less than what Python allocates."""
    import tracemalloc

    async def main():
        await served.ask([0])
        tracemalloc.start()
        before, _ = tracemalloc.get_traced_memory()
        for begin in range(1, 2000, 50):
            await served.ask(*([number] for number in range(begin, begin + 50) if number not in (POISON, SLOW)))
            served.engine.batches.clear()
        after, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return after - before, served.cache._memory.n_bytes

    with serving(memory_bytes=2**30, script=FakeScript(n_embd=384)) as served, pytest.MonkeyPatch.context() as patch:
        patch.setattr("gguf_embed.engines.fake.N_VOCAB", 10_000)
        taken, counted = run(main())
    assert 0.7 * counted < taken < 1.05 * counted


def test_rows_that_were_kept_cannot_be_written_into():
    with serving() as served:
        submission = run(served.cache.submit(served.model, [[1]], MEAN))
        with pytest.raises(ValueError, match="read-only"):
            submission.outputs[0].matrix[0, 0] = 1.0


def test_a_new_process_finds_rows_on_the_disk(tmp_path):
    with serving(disk=DiskRows(tmp_path, 2**20, patience_s=SAFETY_S)) as served:
        first = run(served.cache.submit(served.model, [[1, 2], [3]], MEAN))
    with serving(memory_bytes=0, disk=DiskRows(tmp_path, 2**20, patience_s=SAFETY_S)) as served:
        again = run(served.cache.submit(served.model, [[3], [4], [1, 2]], MEAN))
        assert served.texts_run == [(4,)]
        assert rows_of(again)[[2, 0]].tobytes() == rows_of(first).tobytes()
        assert (served.count("disk_hit"), served.count("miss"), served.count("hit")) == (2, 1, 0)


@pytest.mark.parametrize("seed", range(12))
def test_any_mixture_of_requests_gets_its_own_rows(seed, tmp_path):
    """Callers, cancellations and failures in any order: each answer is what was asked for, and nothing is left over."""
    random = Random(seed)

    async def one(served: Serving):
        texts = [[random.randrange(6), random.randrange(3)] for _ in range(random.choice([1, 1, 3, 9]))]
        if random.random() < 0.2:
            texts.append([POISON])
        caller = Caller(random.choice("ab"), random.choice(list(Priority)), random.choice(["", "s", None]))
        request = served.ask(*texts, caller=caller)
        if random.random() < 0.3:
            await asyncio.sleep(random.random() * 0.003)
            request.cancel()
        try:
            submission = await request
        except asyncio.CancelledError:
            return
        for text, found in zip(texts, submission.outputs, strict=True):
            assert (found is None) == (text == [POISON])
            assert found is None or found.matrix.tobytes() == mean_rows([text]).tobytes()

    async def main():
        async def client():
            for _ in range(15):
                await one(served)

        await asyncio.gather(*(client() for _ in range(12)))
        await asyncio.sleep(0)
        assert not served.cache._flights

    disk = DiskRows(tmp_path, 2**20) if seed % 2 else None
    with serving(memory_bytes=random.choice([0, 2000, 64 * KIB]), n_workers=2, disk=disk) as served:
        run(main())
