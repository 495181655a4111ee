"""The benchmark of jobs, with a handful of rows."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.ingest import IngestRun, IngestSettings, measure_ingest, render_ingest, url_of
from benchmarks.ingest_run import tenths


def test_a_small_run_has_all_rows_in_every_sink(tmp_path, default_model):
    said: list[str] = []
    settings = IngestSettings(n_rounds=1, factor=0.02, sinks=("null", "parquet"))
    runs = measure_ingest(settings, tmp_path, said.append)
    assert [(run.kind, run.sink) for run in runs] == [
        (kind, sink) for kind in ("passages", "short") for sink in ("engine", "null", "parquet")
    ]
    for kind in ("passages", "short"):
        assert len({run.rows for run in runs if run.kind == kind}) == 1
    assert all(run.rows > 0 and run.tokens > run.rows and run.seconds > 0 and run.peak_mb > 50 for run in runs)
    assert len(said) == 6


def test_shares_are_of_the_engine_in_the_same_round():
    runs = [
        IngestRun("short", sink, round_, 100, 1000, seconds, 200.0, 1.0)
        for sink, times in (("engine", (1.0, 2.0)), ("parquet", (2.0, 2.0)))
        for round_, seconds in enumerate(times)
    ]
    assert "75% (50% to 100%)" in render_ingest(runs)


@pytest.mark.parametrize(
    ("sink", "url"),
    [
        ("engine", "engine"),
        ("null", "null:"),
        ("parquet", "parquet:/x"),
        ("postgresql://h/d?table={table}", "postgresql://h/d?table=t"),
    ],
)
def test_the_url_of_a_sink(sink, url):
    assert url_of(sink, Path("/x"), "t") == url


def test_rows_per_second_in_each_tenth():
    assert tenths([(0, 0.0), *((n * 10, n * 1.0) for n in range(1, 11))]) == [10.0] * 10
