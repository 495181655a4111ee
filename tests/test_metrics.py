"""Counters and histograms, without HTTP."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry

from gguf_embed.errors import InvalidInput
from gguf_embed.metrics import Metrics
from gguf_embed.types import InputFailure, QueueLoad, Timings, Truncation

DEFINED = Path(__file__).parent / "data" / "metrics.txt"


def test_two_servers_count_apart():
    first, second = Metrics(), Metrics()
    first.observe_error("overloaded")
    assert first.registry.get_sample_value("gguf_embed_errors_total", {"kind": "overloaded"}) == 1
    assert second.registry.get_sample_value("gguf_embed_errors_total", {"kind": "overloaded"}) is None


def test_texts_carry_tokens_timings_and_truncation():
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    metrics.observe_texts("m", 3, 40, Timings(0.01, 0.02, 0.03), [Truncation(0, 20, 16), Truncation(2, 17, 16)])
    expected = {
        "gguf_embed_texts_total": 3,
        "gguf_embed_tokens_total": 40,
        "gguf_embed_truncated_texts_total": 2,
        "gguf_embed_dropped_tokens_total": 5,
        "gguf_embed_tokenize_seconds_sum": 0.01,
        "gguf_embed_queue_seconds_sum": 0.02,
        "gguf_embed_compute_seconds_sum": 0.03,
    }
    assert {name: registry.get_sample_value(name) for name in expected} == expected


def test_requests_and_tokens_are_counted_for_each_model():
    metrics = Metrics()
    for model, n_tokens in (("a", 5), ("b", 7), ("a", 11)):
        metrics.observe_texts(model, 1, n_tokens, Timings(), ())
    value = metrics.registry.get_sample_value
    assert value("gguf_embed_model_requests_total", {"model": "a"}) == 2
    assert value("gguf_embed_model_tokens_total", {"model": "a"}) == 16
    assert value("gguf_embed_model_tokens_total", {"model": "b"}) == 7


def test_a_batch_fills_a_share_of_its_budget():
    metrics = Metrics()
    metrics.observe_batch(n_texts=4, n_tokens=64, budget_tokens=256, compute_s=0.01)
    value = metrics.registry.get_sample_value
    assert value("gguf_embed_batch_fill_ratio_sum") == 0.25
    assert value("gguf_embed_batch_fill_ratio_bucket", {"le": "0.2"}) == 0
    assert value("gguf_embed_batch_fill_ratio_bucket", {"le": "0.3"}) == 1
    assert value("gguf_embed_batch_texts_sum") == 4
    assert value("gguf_embed_batch_tokens_sum") == 64
    assert value("gguf_embed_batch_seconds_count") == 1


def test_duplicates_are_counted():
    metrics = Metrics()
    metrics.observe_duplicates(5)
    assert metrics.registry.get_sample_value("gguf_embed_duplicate_texts_total") == 5


def test_threads_lose_no_count():
    metrics = Metrics()

    def work() -> None:
        for _ in range(500):
            metrics.observe_batch(1, 10, 100, 0.001)
            metrics.observe_request("/x", 200, 0.001)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert metrics.registry.get_sample_value("gguf_embed_batch_texts_sum") == 2000
    assert metrics.registry.get_sample_value("gguf_embed_requests_total", {"route": "/x", "status": "200"}) == 2000


def test_the_text_format_names_units():
    text = Metrics().render().decode()
    for name in ("request_duration_seconds", "batch_fill_ratio", "queue_seconds", "queued_tokens", "texts_total"):
        assert f"# HELP gguf_embed_{name}" in text


def test_names_labels_help_and_buckets_are_those_that_dashboards_know():
    assert sorted(definitions(Metrics())) == DEFINED.read_text("utf-8").splitlines()


def definitions(metrics: Metrics) -> Iterator[str]:
    """A line for each metric: type, name with labels, help, the limits of its buckets."""
    record_everything(metrics)
    for family in metrics.registry.collect():
        if family.name.startswith("process_"):
            continue
        assert family.samples, family.name
        labels = {name: None for sample in family.samples for name in sample.labels if name != "le"}
        limits = [sample.labels["le"] for sample in family.samples if "le" in sample.labels]
        yield " ".join([family.type, f"{family.name}{{{','.join(labels)}}}", family.documentation, *limits])


def record_everything(metrics: Metrics) -> None:
    metrics.observe_request("/x", 200, 0.001)
    metrics.observe_error("overloaded")
    metrics.observe_exceptions(1, [InputFailure(0, InvalidInput(0, " is wrong"))])
    metrics.observe_texts("m", 1, 10, Timings(), ())
    metrics.observe_load("ok", 0.001)
    metrics.observe_unload("stop")
    metrics.observe_engine_restart("m")
    metrics.observe_cache(1, 1, 1, 1)
    metrics.set_stored_batches({"completed": 1}, 0, 0)
    metrics.set_queues([QueueLoad("m", 0, 0, 0.0, 0)])
