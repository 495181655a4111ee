"""The measurement of large bodies: what is sent, and what is printed."""

from __future__ import annotations

from collections import Counter

from benchmarks.large_bodies import CASES, Case, Figures, measure, row


def test_each_body_is_about_as_large_as_its_name_says():
    for case in CASES:
        size_mib = len(case.body()) / 2**20
        assert abs(size_mib - float(case.what.split()[0])) < 1.5, case.what


def small() -> bytes:
    return b'{"input": 1.5}'


def test_a_case_is_measured_on_a_real_server(tiny_server):
    case = Case("0 MiB, no text", 2, small)
    found = measure(case, tiny_server.port, tiny_server.process.pid)
    assert found.statuses == Counter({400: 2})
    assert 0 < found.before_mib <= found.peak_mib
    assert found.health_longest_s > 0 < found.query_p95_s


def test_a_row_has_all_figures():
    figures = Figures(Counter({200: 3, 429: 1}), 0.123, 0.045, 300.0, 500.4, 310.0)
    line = row(Case("1 MiB of x", 4, small), figures)
    assert line == "| 4 × 1 MiB of x | 3 × 200, 1 × 429 | 0.12 s | 0.04 s | 300 → 500 → 310 MiB |"
