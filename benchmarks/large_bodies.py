"""What everyone else notices of large request bodies: the longest `/health`, a query's p95, and the server's memory.

    python -m benchmarks.large_bodies

Linux only, because it reads /proc.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

from benchmarks.machine import read_machine_facts
from benchmarks.soak_report import pick
from benchmarks.soaked_server import HOST, ask

MIB = 2**20
PATH = "/v1/embeddings"
SETTLE_S = 2.0
PAUSE_S = 0.01


@dataclass(frozen=True, slots=True)
class Case:
    """Bodies that are sent at once."""

    what: str
    n_bodies: int
    body: Callable[[], bytes]


def empty_lists() -> bytes:
    return b'{"x":[' + b"[]," * (21 * MIB) + b"[]]}"


def token_ids() -> bytes:
    return b'{"input":[' + b"1234," * (12 * MIB) + b"1]}"


def one_text() -> bytes:
    return b'{"input":["' + b"a b c d " * (8 * MIB - 16) + b'"]}'


def many_texts() -> bytes:
    return b'{"input":[' + b",".join([b'"' + b"the quick brown fox, " * 20 + b'"'] * 140_000) + b"]}"


def broken() -> bytes:
    return b'{"input":["' + b"a b c d " * (7 * MIB) + b'"'


CASES = (
    Case("64 MiB of `[]`", 1, empty_lists),
    Case("60 MiB of token ids", 8, token_ids),
    Case("64 MiB, one text", 20, one_text),
    Case("57 MiB, 140,000 texts", 20, many_texts),
    Case("56 MiB, not valid JSON", 80, broken),
)


@dataclass(frozen=True, slots=True)
class Figures:
    """What one case did to the others."""

    statuses: Counter[int]
    health_longest_s: float
    query_p95_s: float
    before_mib: float
    peak_mib: float
    after_mib: float


def send(port: int, body: Callable[[], bytes]) -> int:
    """Send one body; the status, or 0 if the connection was closed. Runs in a process of its own."""
    raw = body()
    head = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(raw)}\r\nConnection: close\r\n\r\n"
    with socket.create_connection((HOST, port), timeout=600) as client:
        try:
            client.sendall(head.encode())
            client.sendall(raw)
        except OSError:
            pass  # refused before it was sent; the reply is there
        try:
            return int(client.recv(100).split()[1])
        except (OSError, IndexError, ValueError):
            return 0


class Watch:
    """Asks one route again and again, and notes how long each answer took."""

    def __init__(self, port: int, method: str, path: str, body: object) -> None:
        self._request = port, method, path, body
        self._end = threading.Event()
        self.times_s: list[float] = []
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._end.wait(PAUSE_S):
            began_s = time.perf_counter()
            ask(*self._request)
            self.times_s.append(time.perf_counter() - began_s)


def measure(case: Case, port: int, pid: int) -> Figures:
    before = memory_mib(pid, "VmRSS")
    Path(f"/proc/{pid}/clear_refs").write_text("5")  # the peak starts anew
    spawn = multiprocessing.get_context("spawn")
    with (
        Watch(port, "GET", "/health", None) as health,
        Watch(port, "POST", PATH, {"input": "a query"}) as query,
        spawn.Pool(min(case.n_bodies, 20)) as pool,
    ):
        statuses = pool.starmap(send, [(port, case.body)] * case.n_bodies, chunksize=1)
    time.sleep(SETTLE_S)
    peak, after = memory_mib(pid, "VmHWM"), memory_mib(pid, "VmRSS")
    return Figures(Counter(statuses), max(health.times_s), pick(sorted(query.times_s), 0.95), before, peak, after)


def memory_mib(pid: int, name: str) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{name}:"))


def row(case: Case, found: Figures) -> str:
    statuses = ", ".join(f"{n} × {status}" for status, n in sorted(found.statuses.items()))
    memory = f"{found.before_mib:.0f} → {found.peak_mib:.0f} → {found.after_mib:.0f} MiB"
    return (
        f"| {case.n_bodies} × {case.what} | {statuses} | {found.health_longest_s:.2f} s | {found.query_p95_s:.2f} s | "
        f"{memory} |"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.large_bodies", description=__doc__.splitlines()[0])
    parser.add_argument("flags", nargs="*", help="flags for the server, after --")
    options = parser.parse_args(arguments)
    with socket.create_server((HOST, 0)) as free:
        port = free.getsockname()[1]
    machine = read_machine_facts()
    with tempfile.TemporaryFile() as log:
        words = [sys.executable, "-m", "gguf_embed", "serve", "--port", str(port), *options.flags]
        process = subprocess.Popen(words, stdout=log, stderr=log)
        try:
            wait_until_ready(process, port)
            print(f"{machine.n_cores} cores of {machine.processor}, load average {os.getloadavg()[0]:.1f}")
            print("| Bodies at once | Statuses | Longest /health | Query p95 | Memory before, peak, after |")
            print("|---|---|---|---|---|")
            for case in CASES:
                print(row(case, measure(case, port, process.pid)), flush=True)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()
    return 0


def wait_until_ready(process: subprocess.Popen[bytes], port: int) -> None:
    while process.poll() is None:
        try:
            if ask(port, "POST", PATH, {"input": "ready"})[0] == 200:
                return
        except (OSError, HTTPException):
            time.sleep(0.05)
    raise RuntimeError(f"the server ended with {process.returncode}")


if __name__ == "__main__":
    sys.exit(main())
