import pytest

from benchmarks.limit import MatmulRate
from benchmarks.machine import MachineFacts
from benchmarks.report import (
    Comparison,
    Run,
    ServerFacts,
    percentile,
    render,
    spread,
    summarize_ratios,
    summarize_servers,
)
from benchmarks.servers import Memory

MACHINE = MachineFacts("CPU", ("avx2",), 2, 1, "Linux", "3.11", 0.0, "abc", {"numpy": "2"})


def run(server, round_=0, *, wall_s=1.0, latencies_s=(0.01,), n_tokens=2100, min_cosine=1.0):
    return Run(round_, "batch", server, 100, n_tokens, 1e9, wall_s, latencies_s, 0.01, 0.9, 0.0, 0, min_cosine)


@pytest.mark.parametrize(("share", "expected"), [(0.5, 2), (0.75, 3), (0.99, 4), (1.0, 4), (0.01, 1)])
def test_percentile_is_the_nearest_rank(share, expected):
    assert percentile([4, 1, 3, 2], share) == expected


def test_spread_is_median_and_both_ends():
    value = spread([3.0, 1.0, 2.0])
    assert (value.median, value.low, value.high) == (2.0, 1.0, 3.0)


def test_ratios_pair_the_runs_of_one_round():
    """The machine is half as fast in round 1, but both pairs still have the ratio 2."""
    runs = [run("ours", 0, wall_s=1), run("theirs", 0, wall_s=2), run("theirs", 1, wall_s=4), run("ours", 1, wall_s=2)]
    (ratio,) = summarize_ratios(runs, "ours")
    assert ratio.against == "theirs"
    assert (ratio.throughput.low, ratio.throughput.median, ratio.throughput.high) == (2.0, 2.0, 2.0)


def test_latency_ratio_below_one_means_ours_answers_sooner():
    (ratio,) = summarize_ratios([run("ours", latencies_s=(0.01,)), run("theirs", latencies_s=(0.04,))], "ours")
    assert ratio.p50.median == pytest.approx(0.25)


def test_rates_are_medians_and_latencies_of_all_rounds_together():
    runs = [run("ours", i, wall_s=wall, latencies_s=(wall,)) for i, wall in enumerate((1.0, 2.0, 10.0))]
    (line,) = summarize_servers(runs)
    assert line.texts_per_s == 50
    assert line.tokens_per_s == 1050
    assert (line.p50_ms, line.p99_ms) == (2000, 10000)
    assert line.flops_per_s == 0.5e9


def test_the_report_shows_ratios_limits_and_what_does_not_agree():
    runs = (run("ours"), run("theirs", wall_s=2.5, n_tokens=2000, min_cosine=0.98))
    servers = tuple(
        ServerFacts(
            name, (name, "--flag"), (0.1, 0.2, 0.3), Memory(10**8, 10**8), Memory(9 * 10**7, 10**8), ("weights F16",)
        )
        for name in ("ours", "theirs")
    )
    rates = (MatmulRate("OpenVINO BF16", "2 threads, 1x1", 4e9), MatmulRate("numpy F32", "2 threads, 1x1", 2e9))
    text = render(Comparison({"model": "m.gguf"}, MACHINE, rates, servers, runs))
    for expected in (
        "2.50x",
        "of OpenVINO BF16",
        "of numpy F32",
        "25%",
        "0.980000",
        "token counts differ",
        "`--flag`",
        "ours: weights F16",
    ):
        assert expected in text


def test_one_server_alone_gives_a_report_without_ratios():
    servers = (ServerFacts("ours", ("ours",), (0.1,), Memory(0, 0), Memory(0, 0)),)
    text = render(Comparison({}, MACHINE, (MatmulRate("numpy F32", "", 2e9),), servers, (run("ours"),)))
    assert "ratios" not in text
