"""One measurement of `ingest.py`, in a process of its own: prints one JSON object.

usage: python -m benchmarks.ingest_run MODEL SOURCE SINK STATE. SINK "engine" embeds all texts and stores nothing.
"""

from __future__ import annotations

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

from gguf_embed.embedder.embedder import Embedder
from gguf_embed.ingest.job.counters import Counters, Ledger
from gguf_embed.ingest.job.rejects import Rejects
from gguf_embed.ingest.job.run import Job, JobOptions
from gguf_embed.ingest.job.state import JobState
from gguf_embed.ingest.pool.local import LocalPool
from gguf_embed.ingest.sinks.open import open_sink
from gguf_embed.ingest.sources.base import SourceOptions
from gguf_embed.ingest.sources.open import open_source


def main(model: str, source: str, sink: str, state: str) -> None:
    pool = LocalPool(Embedder(model or None))
    pool.embed(["warm up"] * 64)
    try:
        found = embed_only(pool, source) if sink == "engine" else run_job(pool, source, sink, state)
    finally:
        pool.close()
    print(json.dumps({**found, "peak_mb": peak_mb()}))


def embed_only(pool: LocalPool, source: str) -> dict[str, object]:
    texts = [json.loads(line)["text"] for line in Path(source).read_text("utf-8").splitlines()]
    parts = [texts[at : at + pool.batch_texts] for at in range(0, len(texts), pool.batch_texts)]
    started_s = time.perf_counter()
    with ThreadPoolExecutor(pool.n_at_once) as threads:
        n_tokens = sum(embedded.n_tokens for embedded in threads.map(pool.embed, parts))
    seconds = time.perf_counter() - started_s
    return {"seconds": seconds, "rows": len(texts), "tokens": n_tokens, "tenths": []}


def run_job(pool: LocalPool, source: str, url: str, state_path: str) -> dict[str, object]:
    marks: list[tuple[int, float]] = []

    def note(counters: Counters) -> None:
        if not marks or counters.n_stored > marks[-1][0]:
            marks.append((counters.n_stored, time.perf_counter()))

    opened = open_source(source, SourceOptions())
    sink, state = open_sink(url), JobState(Path(state_path), source)
    rejects = Rejects(None, 0)
    job = Job(opened, sink, pool, state, rejects, Ledger(note))
    options = JobOptions(index="none")
    manifest, _ = job.prepare(options)
    started_s = time.perf_counter()
    outcome = job.run(manifest, None, options)
    seconds = time.perf_counter() - started_s
    assert outcome.is_complete
    assert sink.count() == outcome.counters.n_stored
    for part in (opened, sink, state, rejects):
        part.close()
    counters = outcome.counters
    return {"seconds": seconds, "rows": counters.n_stored, "tokens": counters.n_tokens, "tenths": tenths(marks)}


def tenths(marks: list[tuple[int, float]]) -> list[float]:
    """Rows per second in each tenth of the rows."""
    total, edges = marks[-1][0], [marks[0]]
    for number in range(1, 11):
        edges.append(next(mark for mark in marks if mark[0] >= total * number / 10))
    return [(b[0] - a[0]) / (b[1] - a[1]) for a, b in pairwise(edges) if b[1] > a[1]]


def peak_mb() -> float:
    """Of this process; 0 where /proc is missing. `ru_maxrss` of a child begins with its parent's."""
    try:
        status = Path("/proc/self/status").read_text("ascii")
    except OSError:
        return 0.0
    return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM"))


if __name__ == "__main__":
    main(*sys.argv[1:])
