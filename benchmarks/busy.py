"""How long one short query takes while other clients keep the server busy, and what that costs those clients."""

from __future__ import annotations

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
MEASURE_S = 8.0
PAUSE_S = 0.05  # between two queries of the client
ALLOWED_BATCHES = 1.5  # how many batches a query may wait for, besides what it takes on an idle server


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
    """One case on one server."""

    case: str
    server: str
    idle_p50_ms: float
    idle_p95_ms: float
    p50_ms: float
    p95_ms: float
    bulk_alone: float  # texts per second without queries
    bulk_beside: float  # and with them
    batch_ms: float | None = None  # the mean of the bulk clients' batches; None: the server does not say

    @property
    def allowed_ms(self) -> float | None:
        """What the p95 of a query may be beside bulk clients."""
        return None if self.batch_ms is None else self.idle_p95_ms + ALLOWED_BATCHES * self.batch_ms


def measure_busy(
    contestants: Sequence[Contestant], n_rounds: int, seed: str, say: Callable[[str], None]
) -> list[BusyRun]:
    """Each server alone, one case after the other."""
    runs: list[BusyRun] = []
    with tempfile.TemporaryDirectory() as folder:
        for round_ in range(1, n_rounds + 1):
            for contestant in contestants:
                with running(contestant, Path(folder)) as server:
                    idle = _query(contestant.task, server.port, seed, MEASURE_S / 2)
                    for case in CASES[contestant.task]:
                        runs.append(_run(case, contestant, server.port, idle, f"{seed}/{round_}"))
                        say(f"round {round_} {contestant.name:18} {case.name:22} p95 {runs[-1].p95_ms:8.0f} ms")
    return runs


def _run(case: BulkCase, contestant: Contestant, port: int, idle: Sequence[float], seed: str) -> BusyRun:
    task = contestant.task
    with _bulk(task, case, port, seed) as n_answered:
        time.sleep(SETTLE_S)
        before, started_s, batches_before = n_answered(), time.monotonic(), _batches(port)
        time.sleep(MEASURE_S)
        alone = (n_answered() - before) / (time.monotonic() - started_s)
        batch_ms = _mean_ms(batches_before, _batches(port))
        before, started_s = n_answered(), time.monotonic()
        latencies = _query(task, port, seed, MEASURE_S)
        beside = (n_answered() - before) / (time.monotonic() - started_s)
        if not n_answered():
            raise EngineFailure(f"{contestant.name} answered no bulk request in {case.name}")
    name, idle_ms, busy_ms = contestant.name, _quantiles(idle), _quantiles(latencies)
    return BusyRun(case.name, name, *idle_ms, *busy_ms, alone, beside, batch_ms)


def _batches(port: int) -> tuple[float, float] | None:
    """Seconds and number of the batches so far, from our /metrics; None for other servers."""
    connection = HTTPConnection(HOST, port, timeout=600)
    connection.request("GET", "/metrics")
    lines = connection.getresponse().read().decode("utf-8", "replace").splitlines()
    connection.close()
    found = dict(line.rsplit(" ", 1) for line in lines if line.startswith("gguf_embed_batch_seconds_"))
    if not found:
        return None
    return float(found["gguf_embed_batch_seconds_sum"]), float(found["gguf_embed_batch_seconds_count"])


def _mean_ms(before: tuple[float, float] | None, after: tuple[float, float] | None) -> float | None:
    if before is None or after is None or after[1] == before[1]:
        return None
    return 1000 * (after[0] - before[0]) / (after[1] - before[1])


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


def _query(task: Task, port: int, seed: str, seconds: float) -> list[float]:
    """Latencies in ms of one query (of rerank, with one short document) after the other, for so many seconds."""
    rng = Random(seed)
    connection = HTTPConnection(HOST, port, timeout=600)
    latencies = []
    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s or len(latencies) < 5:
        body = task.encode(make_texts_of(rng, len(task.probe), QUERY_TOKENS), "base64")
        started_s = time.perf_counter()
        connection.request("POST", task.path, body, {"Content-Type": "application/json"})
        connection.getresponse().read()
        latencies.append((time.perf_counter() - started_s) * 1000)
        time.sleep(PAUSE_S)
    connection.close()
    return latencies


def _quantiles(latencies: Sequence[float]) -> tuple[float, float]:
    ordered = sorted(latencies)
    return ordered[len(ordered) // 2], ordered[min(len(ordered) - 1, round(0.95 * len(ordered)))]


def render_busy(runs: Sequence[BusyRun]) -> str:
    lines = []
    for case, server in dict.fromkeys((run.case, run.server) for run in runs):
        chosen = sorted((run for run in runs if (run.case, run.server) == (case, server)), key=lambda run: run.p95_ms)
        run = chosen[len(chosen) // 2]
        lines.append(
            [
                case,
                server,
                f"{run.idle_p50_ms:,.0f}",
                f"{run.idle_p95_ms:,.0f}",
                f"{run.p50_ms:,.0f}",
                f"{run.p95_ms:,.0f}",
                "" if run.allowed_ms is None else f"{run.allowed_ms:,.0f}",
                "" if run.allowed_ms is None else "yes" if run.p95_ms <= run.allowed_ms else "no",
                f"{run.bulk_alone:,.0f}",
                f"{run.bulk_beside / run.bulk_alone:.0%}" if run.bulk_alone else "",
            ]
        )
    header = ("bulk", "server", "idle p50 ms", "idle p95", "busy p50", "busy p95", "allowed", "kept")
    header += ("bulk texts/s", "beside queries")
    title = (
        "One short query at a time while other clients are busy (the run with the median p95). Allowed: idle p95 and "
        f"{ALLOWED_BATCHES} of the bulk clients' mean batch, in ms:"
    )
    return f"{title}\n\n{table(header, lines)}"
