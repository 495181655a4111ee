"""The benchmark of a query beside bulk clients."""

from __future__ import annotations

import math

import pytest

from benchmarks import busy
from benchmarks.busy import BulkCase, BusyRun, measure_busy, render_busy
from benchmarks.servers import Contestant
from benchmarks.tasks import EMBED, RERANK
from tests.server_process import command


def test_quantiles_are_of_what_was_measured():
    assert busy._quantiles([float(number) for number in range(100, 0, -1)]) == (51.0, 96.0)


def test_the_table_shows_the_run_with_the_median_p95():
    runs = [BusyRun("c", "ours", "same", 1, 2, 3, p95, 100, beside) for p95, beside in ((10, 50), (30, 90), (20, 75))]
    line = render_busy(runs).splitlines()[-1]
    assert "20" in line
    assert "75%" in line


@pytest.mark.parametrize(("batch_ms", "words"), [(13.0, "22 yes"), (11.0, "18 no"), (None, "20 100")])
def test_the_table_says_whether_a_query_waited_for_a_batch_and_a_half_at_most(batch_ms, words):
    line = render_busy([BusyRun("c", "ours", "same", 1, 2, 3, 20, 100, 75, batch_ms)]).splitlines()[-1]
    assert words in " ".join(line.replace("|", " ").split())


def test_the_longest_batch_is_of_what_ran_between_two_looks():
    before = {0.1: 5.0, 0.2: 10.0, math.inf: 10.0}
    after = {0.1: 55.0, 0.2: 110.0, math.inf: 110.0}
    assert busy.longest(before, after) == pytest.approx(0.198)
    assert busy.longest(before, before) is None
    assert busy.longest({}, {}) is None
    assert busy.longest({}, {0.1: 0.0, math.inf: 3.0}) == 0.1


@pytest.mark.process
@pytest.mark.parametrize(("task", "model"), [(EMBED, "encoder.gguf"), (RERANK, "reranker.gguf")])
def test_queries_are_answered_beside_bulk_clients(models, cache_dir, monkeypatch, task, model):
    monkeypatch.setattr(busy, "CASES", {task: (BulkCase("2 x 4", 2, 4, 4),)})
    for name in ("SETTLE_S", "MEASURE_S"):
        monkeypatch.setattr(busy, name, 1.0)
    line = tuple(command("serve", "-m", models / model))
    contestant = Contestant("ours", line, task, environment=(("GGUF_EMBED_CACHE", str(cache_dir)),))
    runs = measure_busy([contestant], 1, "1", lambda _: None)
    assert [run.source for run in runs] == list(busy.SOURCES)
    for run in runs:
        assert 0 < run.idle_p50_ms <= run.idle_p95_ms
        assert 0 < run.p50_ms <= run.p95_ms
        assert run.bulk_alone > 0
        assert run.bulk_beside > 0
        assert run.allowed_ms > run.idle_p95_ms
