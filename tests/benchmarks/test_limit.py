import sys

import pytest

from benchmarks import limit
from benchmarks.limit import N_TOKENS, combine, measure_rates
from benchmarks.products import seconds_per_product


def test_a_models_rate_weighs_each_shape_by_its_number_of_matrices():
    flops = 2 * N_TOKENS * (3 * 10 * 10 + 10 * 20)
    assert combine({(10, 10): 3, (10, 20): 1}, [2.0, 4.0]) == pytest.approx(flops / (3 * 2.0 + 4.0))


def test_the_time_of_a_product_is_that_of_the_best_run():
    calls = []
    assert 0 < seconds_per_product(lambda: calls.append(sum(range(1000))), 4) < 0.01
    assert len(calls) > 8


@pytest.mark.process
def test_rates_can_be_measured_here_without_torch(monkeypatch):
    monkeypatch.setattr(limit, "find_spec", lambda _: None)
    rates = measure_rates(1, {(32, 64): 2, (64, 32): 1}, "/no/such/python")
    assert "numpy F32" in [rate.name for rate in rates]
    assert all(rate.flops_per_s > 1e7 for rate in rates)
    assert list(rates) == sorted(rates, key=lambda rate: -rate.flops_per_s)


@pytest.mark.process
def test_openvino_is_measured_in_its_own_process():
    pytest.importorskip("openvino")
    measured = limit._run_program("OpenVINO", sys.executable, 1, ((32, 64),))
    assert measured["F32"][0] > 0
