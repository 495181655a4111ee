"""What the tab "Server" makes of the server's counters: its pure functions, run in the browser."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import pytest

pytestmark = pytest.mark.ui

FOLDER = files("gguf_embed.server.docs.page")
SOURCE = "\n".join(FOLDER.joinpath(name).read_text("utf-8") for name in ("math.js", "server_sample.js"))
COUNTERS = """
process_start_time_seconds {started}
gguf_embed_requests_total{{route="/metrics",status="200"}} {own}
gguf_embed_requests_total{{route="/v1/embeddings",status="200"}} {good}
gguf_embed_requests_total{{route="/v1/embeddings",status="400"}} {bad}
gguf_embed_request_duration_seconds_bucket{{le="0.1",route="/v1/embeddings"}} {good}
gguf_embed_request_duration_seconds_bucket{{le="0.3",route="/v1/embeddings"}} {all}
gguf_embed_request_duration_seconds_bucket{{le="+Inf",route="/v1/embeddings"}} {all}
gguf_embed_request_duration_seconds_sum{{route="/v1/embeddings"}} {seconds}
gguf_embed_tokens_total {tokens}
gguf_embed_model_tokens_total{{model="a \\"b\\""}} {tokens}
gguf_embed_batch_fill_ratio_sum {fill}
gguf_embed_batch_fill_ratio_count {batches}
gguf_embed_cache_texts_total{{outcome="hit"}} {hits}
gguf_embed_cache_texts_total{{outcome="miss"}} 10
gguf_embed_queued_texts 7
"""


@pytest.fixture
def compute(browser, tiny_server) -> Any:
    """Runs an expression with the functions of the files."""
    browser.open(f"{tiny_server.url}/version")

    def run(expression: str, *values: object) -> Any:
        return browser.chrome.execute_script(f"{SOURCE}\nreturn {expression};", *values)

    return run


def counters(**changes: float) -> str:
    start = {"started": 5, "own": 100, "good": 10, "bad": 0, "all": 10, "seconds": 1.0, "tokens": 50}
    return COUNTERS.format(**{**start, "fill": 2.0, "batches": 4, "hits": 5, **changes})


BETWEEN = "pointBetween(lookAt(parseMetrics(arguments[0]), 1000), lookAt(parseMetrics(arguments[1]), 3000))"


def test_a_point_has_the_rates_between_two_looks(compute):
    later = counters(own=900, good=14, bad=2, all=16, seconds=1.6, tokens=250, fill=3.5, batches=6, hits=8)
    point = compute(BETWEEN, counters(), later)
    assert (point["requests"], point["errors"], point["tokens"]) == (3, 1, 100)  # per second, in two seconds
    assert point["mean"] == pytest.approx(100)
    assert (point["fill"], point["cache"], point["queued"]) == (0.75, 1, 7)


def test_where_nothing_happened_there_is_no_time_and_no_fill(compute):
    point = compute(BETWEEN, counters(), counters())
    assert (point["requests"], point["tokens"]) == (0, 0)
    assert {name: point[name] for name in ("mean", "p95", "fill", "cache", "memory")} == dict.fromkeys(
        ("mean", "p95", "fill", "cache", "memory")
    )


def test_a_models_name_may_have_quotes(compute):
    look = "[...lookAt(parseMetrics(arguments[0]), 0).modelTokens]"
    assert compute(look, counters()) == [['a "b"', 50]]


def test_a_restart_is_known_by_the_time_of_the_start_and_by_counters_that_fall(compute):
    looks = "restarted(lookAt(parseMetrics(arguments[0]), 0), lookAt(parseMetrics(arguments[1]), 1))"
    assert compute(looks, counters(), counters(good=11)) is False
    assert compute(looks, counters(), counters(good=9)) is True
    assert compute(looks, counters(), counters(started=6)) is True


def test_a_quantile_is_interpolated_in_its_bucket(compute):
    buckets = "new Map([[0.1, 50], [0.2, 100], [Infinity, 100]])"
    assert compute(f"[0.25, 0.5, 0.75].map((share) => quantile({buckets}, share))") == pytest.approx([0.05, 0.1, 0.15])
    assert compute("quantile(new Map([[0.1, 0], [Infinity, 9]]), 0.5)") == 0.1  # beyond the last bound


def test_neighbors_are_averaged_and_gaps_stay(compute):
    points = "[[0, 2], [1, 4], [2, null], [3, null], [4, 6]].map(([atMs, n]) => ({atMs, n}))"
    assert [point["n"] for point in compute(f"thinned({points}, ['n'], 3)")] == [3, None, 6]
    assert len(compute(f"thinned({points}, ['n'], 5)")) == 5


def test_axes_end_at_round_numbers(compute):
    assert compute("[0, 0.3, 1, 1.2, 60, 999].map(roundUp)") == [1, 0.5, 1, 2, 100, 1000]
