"""Counters and timings for Prometheus: one object, passed in. Its methods are named after the event they record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

from gguf_embed.types import InputFailure, QueueLoad, Timings, Truncation

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4

_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)
_BATCH_MS = (0.5, 1, 2, 3, 5, 7, 10, 12, 15, 20, 25, 30, 35, 40, 50, 60, 80, 100, 125, 150, 200, 250, 300, 400)
_BATCH_SECONDS = (*(ms / 1000 for ms in _BATCH_MS), 0.5, 0.75, 1, 2, 5, 10, 30, 60)
"""Finer, because a query waits for the longest batch that runs."""
_POWERS_OF_TWO = tuple(2**n for n in range(15))
_TENTHS = tuple(n / 10 for n in range(1, 11))


class Metrics:
    """All of one server's counters. Every method may be called from any thread and takes a few microseconds."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = CollectorRegistry() if registry is None else registry
        ProcessCollector(registry=self.registry)
        self._define_request_metrics()
        self._define_text_metrics()
        self._define_batch_metrics()
        self._define_cache_metrics()
        self._define_queue_metrics()
        self._define_body_metrics()
        self._define_stored_batch_metrics()
        self._define_model_metrics()
        # labels() parses and locks on every call, and there are few label values (our own routes and statuses)
        self._bound: dict[tuple[str, int], tuple[Counter, Histogram]] = {}

    def _define_request_metrics(self) -> None:
        self._requests = self._counter(
            "gguf_embed_requests", "Requests answered, by route and HTTP status.", "route", "status"
        )
        self._request_seconds = self._histogram(
            "gguf_embed_request_duration_seconds",
            "Time from a request's headers to its finished reply.",
            _SECONDS,
            "route",
        )
        self._errors = self._counter("gguf_embed_errors", "Requests refused or failed, by kind.", "kind")

    def _define_text_metrics(self) -> None:
        self._texts = self._counter("gguf_embed_texts", "Texts embedded.")
        self._tokens = self._counter("gguf_embed_tokens", "Tokens of the texts embedded.")
        self._truncated_texts = self._counter("gguf_embed_truncated_texts", "Texts cut to the limit.")
        self._dropped_tokens = self._counter("gguf_embed_dropped_tokens", "Tokens dropped by truncation.")
        self._duplicate_texts = self._counter(
            "gguf_embed_duplicate_texts", "Texts answered from an equal text of the same request."
        )
        self._windowed_texts = self._counter(
            "gguf_embed_windowed_texts", "Texts over the limit that were split into windows."
        )
        self._failed_texts = self._counter(
            "gguf_embed_failed_texts", "Texts that failed in a request whose other texts were answered.", "kind"
        )
        self._tokenize_seconds = self._histogram(
            "gguf_embed_tokenize_seconds", "Time to tokenize a request's texts.", _SECONDS
        )
        self._queue_seconds = self._histogram(
            "gguf_embed_queue_seconds", "The longest wait for a worker among a request's texts.", _SECONDS
        )
        self._compute_seconds = self._histogram(
            "gguf_embed_compute_seconds", "Engine time of the batches that held a request's texts.", _SECONDS
        )

    def _define_batch_metrics(self) -> None:
        self._batch_seconds = self._histogram("gguf_embed_batch_seconds", "Engine time of one batch.", _BATCH_SECONDS)
        self._batch_texts = self._histogram("gguf_embed_batch_texts", "Texts in one batch.", _POWERS_OF_TWO)
        self._batch_tokens = self._histogram("gguf_embed_batch_tokens", "Tokens in one batch.", _POWERS_OF_TWO)
        self._batch_fill = self._histogram(
            "gguf_embed_batch_fill_ratio", "Tokens in one batch divided by its token budget.", _TENTHS
        )

    def _define_cache_metrics(self) -> None:
        self._cached_texts = self._counter(
            "gguf_embed_cache_texts",
            "Texts looked up in the cache: found in memory (hit) or on the disk (disk_hit), being computed for another "
            "request (joined), or computed (miss).",
            "outcome",
        )
        self._cache_evictions = self._counter(
            "gguf_embed_cache_evictions", "Entries of the cache that gave way to others."
        )
        self._cache_entries = self._gauge("gguf_embed_cache_entries", "Entries of the cache in memory.")
        self._cache_bytes = self._gauge("gguf_embed_cache_bytes", "Memory that they take.")

    def _define_queue_metrics(self) -> None:
        self._queued_texts = self._gauge("gguf_embed_queued_texts", "Texts waiting for a worker.")
        self._queued_tokens = self._gauge("gguf_embed_queued_tokens", "Tokens waiting for a worker.")
        self._running_texts = self._gauge("gguf_embed_running_texts", "Texts in the engine now.")
        self._waiting_requests = self._gauge(
            "gguf_embed_waiting_requests", "Requests that wait until the queue has room for them.", "model"
        )
        self._waiting_to_tokenize = self._gauge(
            "gguf_embed_waiting_to_tokenize", "Requests that wait for a thread that tokenizes.", "model"
        )
        self._queue_limit_tokens = self._gauge("gguf_embed_queue_limit_tokens", "Tokens that the queue holds.", "model")
        self._tokens_per_second = self._gauge(
            "gguf_embed_tokens_per_second", "Speed of full batches, as measured.", "model"
        )
        self._interactive_batch_tokens = self._gauge(
            "gguf_embed_interactive_batch_tokens", "Tokens of a batch while short requests come.", "model"
        )

    def _define_body_metrics(self) -> None:
        self._body_memory_bytes = self._gauge(
            "gguf_embed_body_memory_bytes", "Memory that request bodies over 16 KiB take."
        )
        self._waiting_bodies = self._gauge("gguf_embed_waiting_bodies", "Request bodies that wait for memory.")

    def _define_stored_batch_metrics(self) -> None:
        self._stored_batches = self._gauge("gguf_embed_stored_batches", "Batches of /v1/batches, by status.", "status")
        self._waiting_batch_requests = self._gauge(
            "gguf_embed_waiting_batch_requests", "Requests of batches that are not computed yet."
        )
        self._stored_batch_bytes = self._gauge("gguf_embed_stored_batch_bytes", "Bytes of batches' files on the disk.")

    def _define_model_metrics(self) -> None:
        self._model_loads = self._counter("gguf_embed_model_loads", "Models loaded.", "outcome")
        self._model_load_seconds = self._histogram("gguf_embed_model_load_seconds", "Time to load a model.", _SECONDS)
        self._model_unloads = self._counter("gguf_embed_model_unloads", "Models unloaded.", "reason")
        self._engine_restarts = self._counter(
            "gguf_embed_engine_restarts",
            "Starts of an engine's process after the one before it ended (--isolate), by model.",
            "model",
        )
        self._model_requests = self._counter("gguf_embed_model_requests", "Requests computed.", "model")
        self._model_tokens = self._counter("gguf_embed_model_tokens", "Tokens computed.", "model")
        self._loaded_models = self._gauge("gguf_embed_loaded_models", "Models in memory now.")

    def _counter(self, name: str, description: str, *labels: str) -> Counter:
        return Counter(name, description, labels, registry=self.registry)

    def _gauge(self, name: str, description: str, *labels: str) -> Gauge:
        return Gauge(name, description, labels, registry=self.registry)

    def _histogram(self, name: str, description: str, buckets: Sequence[float], *labels: str) -> Histogram:
        return Histogram(name, description, labels, buckets=buckets, registry=self.registry)

    def observe_request(self, route: str, status: int, duration_s: float) -> None:
        """One HTTP request was answered. `route` is a path of the route table, never a client's own string."""
        bound = self._bound.get((route, status))
        if bound is None:
            bound = self._requests.labels(route, str(status)), self._request_seconds.labels(route)
            self._bound[route, status] = bound
        bound[0].inc()
        bound[1].observe(duration_s)

    def observe_error(self, kind: str) -> None:
        """One request was refused or failed; `kind` is that of its error class."""
        self._errors.labels(kind).inc()

    def observe_texts(
        self, model: str, n_texts: int, n_tokens: int, timings: Timings, truncated: Sequence[Truncation]
    ) -> None:
        """One request's texts became vectors."""
        self._model_requests.labels(model).inc()
        self._model_tokens.labels(model).inc(n_tokens)
        self._texts.inc(n_texts)
        self._tokens.inc(n_tokens)
        self._tokenize_seconds.observe(timings.tokenize_s)
        self._queue_seconds.observe(timings.queue_s)
        self._compute_seconds.observe(timings.compute_s)
        if truncated:
            self._truncated_texts.inc(len(truncated))
            self._dropped_tokens.inc(sum(cut.n_dropped for cut in truncated))

    def observe_exceptions(self, n_windowed: int, failures: Sequence[InputFailure]) -> None:
        """In one answered request, `n_windowed` texts were split into windows and `failures` failed."""
        self._windowed_texts.inc(n_windowed)
        for failure in failures:
            self._failed_texts.labels(failure.error.kind).inc()

    def observe_load(self, outcome: str, duration_s: float) -> None:
        """One model was loaded ("ok") or failed to load ("failed")."""
        self._model_loads.labels(outcome).inc()
        self._model_load_seconds.observe(duration_s)

    def observe_unload(self, reason: str) -> None:
        """One model leaves memory: "keep_alive", "room", "asked", "replaced" or "stop"."""
        self._model_unloads.labels(reason).inc()

    def observe_engine_restart(self, model: str) -> None:
        """The process of a model's engine has ended, and is started again."""
        self._engine_restarts.labels(model).inc()

    def observe_duplicates(self, n_texts: int) -> None:
        """`n_texts` texts were answered from an equal text of the same request."""
        self._duplicate_texts.inc(n_texts)

    def observe_batch(self, n_texts: int, n_tokens: int, budget_tokens: int, compute_s: float) -> None:
        """The engine ran one batch with a budget of `budget_tokens`."""
        self._batch_texts.observe(n_texts)
        self._batch_tokens.observe(n_tokens)
        self._batch_fill.observe(n_tokens / budget_tokens if budget_tokens else 0.0)
        self._batch_seconds.observe(compute_s)

    def n_computed(self) -> tuple[int, int]:
        """Texts and tokens of all batches so far."""
        sums = (self.registry.get_sample_value(f"gguf_embed_batch_{name}_sum") for name in ("texts", "tokens"))
        n_texts, n_tokens = (int(value or 0) for value in sums)
        return n_texts, n_tokens

    def observe_cache(self, n_hits: int, n_from_disk: int, n_joined: int, n_missed: int) -> None:
        """One request's texts were looked up in the cache."""
        outcomes = {"hit": n_hits, "disk_hit": n_from_disk, "joined": n_joined, "miss": n_missed}
        for outcome, n_texts in outcomes.items():
            if n_texts:
                self._cached_texts.labels(outcome).inc(n_texts)

    def observe_cache_evictions(self, n_entries: int) -> None:
        """`n_entries` entries of the cache gave way to others."""
        self._cache_evictions.inc(n_entries)

    def set_cache(self, n_entries: int, n_bytes: int) -> None:
        """What the cache holds in memory."""
        self._cache_entries.set(n_entries)
        self._cache_bytes.set(n_bytes)

    def set_load(self, queued_texts: int, queued_tokens: int, running_texts: int, loaded_models: int = 0) -> None:
        """The current load. Set whenever the metrics are read."""
        self._loaded_models.set(loaded_models)
        self._queued_texts.set(queued_texts)
        self._queued_tokens.set(queued_tokens)
        self._running_texts.set(running_texts)

    def set_bodies(self, used_bytes: int, n_waiting: int) -> None:
        """The memory for large request bodies. Set whenever the metrics are read."""
        self._body_memory_bytes.set(used_bytes)
        self._waiting_bodies.set(n_waiting)

    def set_stored_batches(self, n_batches: Mapping[str, int], n_waiting_requests: int, used_bytes: int) -> None:
        """What the folder of batches holds. Set whenever the metrics are read."""
        self._stored_batches.clear()  # of statuses that no batch has any more
        for status, n in n_batches.items():
            self._stored_batches.labels(status).set(n)
        self._waiting_batch_requests.set(n_waiting_requests)
        self._stored_batch_bytes.set(used_bytes)

    def set_queues(self, queues: Sequence[QueueLoad]) -> None:
        """The queues of all loaded models. Set whenever the metrics are read."""
        gauges = self._waiting_requests, self._queue_limit_tokens, self._tokens_per_second
        for gauge in (*gauges, self._interactive_batch_tokens, self._waiting_to_tokenize):
            gauge.clear()  # of models that were unloaded
        for queue in queues:
            self._waiting_requests.labels(queue.model).set(queue.n_outside)
            self._waiting_to_tokenize.labels(queue.model).set(queue.n_tokenizing)
            self._queue_limit_tokens.labels(queue.model).set(queue.limit_tokens)
            self._tokens_per_second.labels(queue.model).set(queue.tokens_per_s)
            self._interactive_batch_tokens.labels(queue.model).set(queue.interactive_tokens)

    def render(self) -> bytes:
        """All metrics in Prometheus's text format, `CONTENT_TYPE`."""
        return generate_latest(self.registry)
