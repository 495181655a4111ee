"""How long one short query takes while other clients keep the server busy, and what that costs those clients."""

from __future__ import annotations

import math
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from random import Random

from benchmarks.load import HOST
from benchmarks.report import table
from benchmarks.scenarios import make_texts_of
from benchmarks.servers import Contestant, running
from benchmarks.tasks import EMBED, RERANK, Task
from gguf_embed.errors import EngineFailure

QUERY_TOKENS = 12
SETTLE_S = 2.0
MEASURE_S = 8.0  # of each phase, and longer until every bulk client has got a reply
MAX_PHASE_S = 60.0
PAUSE_S = 0.05  # between two queries of the client
SOURCES: Mapping[str, str] = {"same": HOST, "another": "127.0.0.2"}
"""The address of the bulk clients, and one more. Queries come from them in turn, because servers may share their time
between addresses."""
ALLOWED_BATCHES = 1.5  # how many of the longest batches a query may wait for, besides what it takes on an idle server
LONGEST = 0.99  # the quantile of the batches that counts as the longest: one may have been held up by something else
_BUCKET = re.compile(r'gguf_embed_batch_seconds_bucket\{le="(?P<seconds>[^"]+)"\} (?P<count>\S+)')
_TEXTS = re.compile(r"gguf_embed_batch_texts_sum (?P<count>\S+)")


@dataclass(frozen=True, slots=True)
class BulkCase:
    """What keeps the server busy."""

    name: str
    n_clients: int
    n_texts: int  # per request; of rerank, documents
    n_tokens: int  # per text


CASES: Mapping[Task, tuple[BulkCase, ...]] = {
    EMBED: (
        BulkCase("4 x 64 passages", 4, 64, 200),
        BulkCase("8 x 64 passages", 8, 64, 200),
        BulkCase("32 x 1 passage", 32, 1, 200),
        BulkCase("32 x 1 short text", 32, 1, 21),
    ),
    RERANK: (
        BulkCase("4 x 64 documents", 4, 64, 200),
        BulkCase("8 x 64 documents", 8, 64, 200),
        BulkCase("32 x 1 document", 32, 1, 200),
        BulkCase("32 x 1 short document", 32, 1, 21),
    ),
}


@dataclass(frozen=True, slots=True)
class BusyRun:
    """Queries from one address in one case on one server."""

    case: str
    server: str
    source: str  # of the queries, see `SOURCES`
    idle_p50_ms: float
    idle_p95_ms: float
    p50_ms: float
    p95_ms: float
    bulk_alone: float  # texts per second without queries
    bulk_beside: float  # and with them
    batch_ms: float | None = None  # the longest of the batches beside queries; None: the server does not say

    @property
    def allowed_ms(self) -> float | None:
        """What the p95 of a query may be beside bulk clients."""
        return None if self.batch_ms is None else self.idle_p95_ms + ALLOWED_BATCHES * self.batch_ms


Batches = Mapping[float, float]
"""Batches so far that took at most so many seconds."""

Latencies = dict[str, list[float]]
"""Milliseconds of queries, by `SOURCES`."""


def measure_busy(
    contestants: Sequence[Contestant], n_rounds: int, seed: str, say: Callable[[str], None]
) -> list[BusyRun]:
    """Each server alone, one case after the other."""
    runs: list[BusyRun] = []
    with tempfile.TemporaryDirectory() as folder:
        for round_ in range(1, n_rounds + 1):
            for contestant in contestants:
                with running(contestant, Path(folder)) as server:
                    idle = _query(contestant.task, server.port, seed, MEASURE_S)
                    for case in CASES[contestant.task]:
                        found = _run(case, contestant, server.port, idle, f"{seed}/{round_}")
                        runs += found
                        p95s = ", ".join(f"{run.p95_ms:.0f}" for run in found)
                        say(f"round {round_} {contestant.name:18} {case.name:22} p95 {p95s} ms")
    return runs


def _run(case: BulkCase, contestant: Contestant, port: int, idle: Latencies, seed: str) -> list[BusyRun]:
    task = contestant.task
    with _bulk(task, case, port, seed) as n_answered:
        latencies: Latencies = {source: [] for source in SOURCES}

        def query(seconds: float) -> None:
            for source, found in _query(task, port, seed, seconds).items():
                latencies[source] += found

        def n_bulk() -> float:
            """Bulk texts so far. A reply counts 64 of them at once, so ask for what is computed; a query is one."""
            computed = _n_computed(port)
            return n_answered() if computed is None else computed - sum(map(len, latencies.values()))

        time.sleep(SETTLE_S)
        alone = _phase(case, n_bulk, time.sleep, MEASURE_S)
        batches_before = _batches(port)
        beside = _phase(case, n_bulk, query, len(SOURCES) * MEASURE_S)
        batch_s = longest(batches_before, _batches(port))
        if not n_answered():
            raise EngineFailure(f"{contestant.name} answered no bulk request in {case.name}")
    batch_ms = None if batch_s is None else 1000 * batch_s
    runs = []
    for source in SOURCES:
        idle_ms, busy_ms = _quantiles(idle[source]), _quantiles(latencies[source])
        runs.append(BusyRun(case.name, contestant.name, source, *idle_ms, *busy_ms, alone, beside, batch_ms))
    return runs


def _phase(case: BulkCase, n_bulk: Callable[[], float], spend: Callable[[float], None], seconds: float) -> float:
    """The bulk clients' texts per second while `spend` passes the time: until each has got a reply, on average."""
    before, started_s = n_bulk(), time.monotonic()
    spend(seconds)
    while n_bulk() - before < case.n_clients * case.n_texts and time.monotonic() - started_s < MAX_PHASE_S:
        spend(1.0)
    return (n_bulk() - before) / (time.monotonic() - started_s)


def _batches(port: int) -> Batches:
    """Empty for other servers than ours."""
    found = (_BUCKET.fullmatch(line) for line in _metrics(port))
    return {float(match["seconds"]): float(match["count"]) for match in found if match}


def _n_computed(port: int) -> float | None:
    """Texts that were computed since the start; None for other servers than ours."""
    found = (_TEXTS.fullmatch(line) for line in _metrics(port))
    return next((float(match["count"]) for match in found if match), None)


def _metrics(port: int) -> list[str]:
    """The lines of /metrics."""
    connection = HTTPConnection(HOST, port, timeout=600)
    connection.request("GET", "/metrics")
    lines = connection.getresponse().read().decode("utf-8", "replace").splitlines()
    connection.close()
    return lines


def longest(before: Batches, after: Batches) -> float | None:
    """The quantile `LONGEST` of the seconds of the batches between two moments, linear within a bucket; None: none."""
    counts = {seconds: count - before.get(seconds, 0) for seconds, count in sorted(after.items())}
    wanted = LONGEST * max(counts.values(), default=0)
    low, below = 0.0, 0.0
    for seconds, count in counts.items():
        if count >= wanted > 0:
            return low if math.isinf(seconds) else low + (seconds - low) * (wanted - below) / (count - below)
        low, below = seconds, count
    return None


@contextmanager
def _bulk(task: Task, case: BulkCase, port: int, seed: str) -> Iterator[Callable[[], int]]:
    command = [sys.executable, "-m", "benchmarks.busy_bulk", task.name, str(port), str(case.n_clients)]
    command += [str(case.n_texts), str(case.n_tokens), seed]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parent.parent)
    counts: list[int] = []
    assert process.stdout is not None
    lines = process.stdout
    reader = threading.Thread(target=lambda: counts.extend(int(line) for line in lines), daemon=True)
    reader.start()
    try:
        yield lambda: sum(counts)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        reader.join()
        lines.close()


def _query(task: Task, port: int, seed: str, seconds: float) -> Latencies:
    """One query (of rerank, with one short document) after the other, for so many seconds."""
    rng = Random(seed)
    connections = [HTTPConnection(HOST, port, timeout=600, source_address=(host, 0)) for host in SOURCES.values()]
    latencies: Latencies = {source: [] for source in SOURCES}
    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s or min(map(len, latencies.values())) < 5:
        for source, connection in zip(SOURCES, connections, strict=True):
            body = task.encode(make_texts_of(rng, len(task.probe), QUERY_TOKENS), "base64")
            started_s = time.perf_counter()
            connection.request("POST", task.path, body, {"Content-Type": "application/json"})
            connection.getresponse().read()
            latencies[source].append((time.perf_counter() - started_s) * 1000)
            time.sleep(PAUSE_S)
    for connection in connections:
        connection.close()
    return latencies


def _quantiles(latencies: Sequence[float]) -> tuple[float, float]:
    ordered = sorted(latencies)
    return ordered[len(ordered) // 2], ordered[min(len(ordered) - 1, round(0.95 * len(ordered)))]


def render_busy(runs: Sequence[BusyRun]) -> str:
    lines = []
    for key in dict.fromkeys((run.case, run.server, run.source) for run in runs):
        alike = (run for run in runs if (run.case, run.server, run.source) == key)
        chosen = sorted(alike, key=lambda run: run.p95_ms)
        run = chosen[len(chosen) // 2]
        lines.append(
            [
                *key,
                f"{run.idle_p50_ms:,.0f}",
                f"{run.idle_p95_ms:,.0f}",
                f"{run.p50_ms:,.0f}",
                f"{run.p95_ms:,.0f}",
                "" if run.batch_ms is None else f"{run.batch_ms:,.0f}",
                "" if run.allowed_ms is None else f"{run.allowed_ms:,.0f}",
                "" if run.allowed_ms is None else "yes" if run.p95_ms <= run.allowed_ms else "no",
                f"{run.bulk_alone:,.0f}",
                f"{run.bulk_beside / run.bulk_alone:.0%}" if run.bulk_alone else "",
            ]
        )
    header = ("bulk", "server", "query's address", "idle p50 ms", "idle p95", "busy p50", "busy p95", "longest batch")
    header += ("allowed", "kept", "bulk texts/s", "beside queries")
    title = (
        "One short query at a time while other clients are busy (the run with the median p95). Allowed: idle p95 and "
        f"{ALLOWED_BATCHES} of the longest batch (its {LONGEST:.0%} quantile), in ms:"
    )
    return f"{title}\n\n{table(header, lines)}"
