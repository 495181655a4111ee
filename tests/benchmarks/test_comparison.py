import json
import sys
from dataclasses import asdict, replace
from pathlib import Path

import gguf
import numpy as np
import pytest

from benchmarks import comparison as compare
from benchmarks.comparison import CompareSettings, run_comparison
from benchmarks.limit import MatmulRate
from benchmarks.report import render
from benchmarks.scenarios import Scenario
from benchmarks.servers import Contestant
from benchmarks.tasks import RERANK

pytestmark = pytest.mark.process

PROGRAM = str(Path(__file__).parent / "tiny_server.py")
CONTESTANTS = [Contestant(name, (sys.executable, PROGRAM)) for name in ("ours", "theirs")]
SCENARIOS = (Scenario("one", 1, 4, (1, 1), (21, 21)), Scenario("many", 2, 4, (1, 3), (5, 40)))


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "tiny.gguf"
    writer = gguf.GGUFWriter(path, "bert")
    writer.add_block_count(1)
    writer.add_embedding_length(32)
    writer.add_tensor("blk.0.ffn_up.weight", np.zeros((64, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_every_round_runs_every_scenario_on_every_server_and_all_are_stopped(model, monkeypatch):
    started = []
    real = compare.running

    def spy(contestant, log_folder):
        started.append(real(contestant, log_folder))
        return started[-1]

    monkeypatch.setattr(compare, "running", spy)
    monkeypatch.setattr(compare, "measure_rates", lambda *_: (MatmulRate("numpy F32", "", 1e9),))
    settings = CompareSettings(model, SCENARIOS, n_rounds=2, n_starts=2, factor=0.1, rest_s=0)
    said = []
    result = run_comparison(settings, CONTESTANTS, said.append)

    assert len(started) == 4
    assert {(run.round, run.scenario, run.server) for run in result.runs} == {
        (round_, scenario, server) for round_ in (0, 1) for scenario in ("one", "many") for server in ("ours", "theirs")
    }
    assert all(run.min_cosine == pytest.approx(1.0) for run in result.runs)
    assert [len(server.starts_s) for server in result.servers] == [2, 2]
    assert "theirs" in render(result)
    json.dumps(asdict(result))


def test_the_order_of_the_servers_turns_with_the_round(model, monkeypatch):
    order = []
    real = compare._time_one

    def spy(server, *rest):
        order.append(server.contestant.name)
        return real(server, *rest)

    monkeypatch.setattr(compare, "_time_one", spy)
    monkeypatch.setattr(compare, "measure_rates", lambda *_: (MatmulRate("numpy F32", "", 1e9),))
    settings = CompareSettings(model, SCENARIOS[:1], n_rounds=2, n_starts=1, rest_s=0)
    run_comparison(settings, CONTESTANTS, lambda _: None)
    assert order == ["ours", "theirs", "theirs", "ours"]


def test_rerank_sends_queries_with_documents_and_compares_scores(model, monkeypatch):
    monkeypatch.setattr(compare, "measure_rates", lambda *_: (MatmulRate("numpy F32", "", 1e9),))
    contestants = [replace(contestant, task=RERANK) for contestant in CONTESTANTS]
    scenarios = (Scenario("pairs", 2, 4, (3, 3), (20, 40), query_tokens=(8, 16)),)
    result = run_comparison(
        CompareSettings(model, scenarios, n_rounds=1, n_starts=1, rest_s=0), contestants, lambda _: None
    )
    assert [run.n_texts for run in result.runs] == [12, 12]
    assert all(run.min_cosine == pytest.approx(1.0) for run in result.runs)
