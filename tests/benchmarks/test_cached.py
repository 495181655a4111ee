"""The benchmark of the cache."""

from __future__ import annotations

import pytest

from benchmarks import cached
from benchmarks.cached import CacheRun, measure_cache, render_cache
from benchmarks.servers import ServerSetup


def test_the_table_has_the_medians_of_the_ratios():
    runs = [CacheRun("single", 100, plain, miss, 0.5) for plain, miss in ((1.0, 1.1), (2.0, 2.0), (1.0, 0.9))]
    line = render_cache(runs).splitlines()[-1]
    assert [cell.strip() for cell in line.split("|") if cell.strip()] == [
        "single",
        "100",
        "1.000",
        "0.900 to 1.100",
        "200",
        "2.0",
    ]


@pytest.mark.process
def test_new_texts_run_on_both_servers_and_known_ones_again(models, cache_dir, monkeypatch):
    monkeypatch.setattr(cached, "SCENARIO_NAMES", ("single",))
    said: list[str] = []
    setup = ServerSetup(models / "encoder.gguf", cache=cache_dir, our_flags=("--truncate",))
    runs = measure_cache(setup, 2, 0.01, "1", said.append)
    assert [run.n_texts for run in runs] == [3, 3]
    assert all(run.plain_s > 0 and run.miss_s > 0 and run.hit_s > 0 for run in runs)
    assert len(said) == 2
