"""What the cache costs for texts that it does not have, and what it saves for those that it has."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from benchmarks.load import frame_request, run_load
from benchmarks.report import table
from benchmarks.scenarios import SCENARIOS, Scenario, make_workload, scale
from benchmarks.servers import OURS, RunningServer, ServerSetup, running

FLAGS = ("--cache-size", "256M")
SCENARIO_NAMES = ("single", "batch32", "passages")


@dataclass(frozen=True, slots=True)
class CacheRun:
    """The same new texts on a server without a cache, on one with a cache, and on that one again. In seconds."""

    scenario: str
    n_texts: int
    plain_s: float
    miss_s: float
    hit_s: float


def measure_cache(
    setup: ServerSetup, n_rounds: int, factor: float, seed: str, say: Callable[[str], None]
) -> list[CacheRun]:
    """Both servers run all the time; which one gets the new texts first alternates."""
    scenarios = [scale(scenario, factor) for scenario in SCENARIOS if scenario.name in SCENARIO_NAMES]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        cached = replace(setup, our_flags=(*setup.our_flags, *FLAGS)).contestant(OURS)
        servers = [
            stack.enter_context(running(contestant, folder))
            for contestant in (setup.contestant(OURS), replace(cached, name="with a cache"))
        ]
        for scenario in scenarios:
            _measure(servers, scenario, f"{seed}/warm-up", 0)
        runs = []
        for number in range(n_rounds):
            for scenario in scenarios:
                runs.append(_measure(servers, scenario, f"{seed}/{number}", number))
                say(f"round {number + 1} {scenario.name:10} miss {_miss(runs[-1]):.3f}, hit {_hit(runs[-1]):.1f}")
    return runs


def _measure(servers: list[RunningServer], scenario: Scenario, seed: str, number: int) -> CacheRun:
    workload = make_workload(scenario, seed)
    task = servers[0].contestant.task
    requests = [frame_request(task.path, task.encode(texts, "base64")) for texts in workload.requests]
    seconds = {}
    for server in reversed(servers) if number % 2 else servers:
        seconds[server.port] = run_load(server.port, requests, workload.n_clients).wall_s
    again = run_load(servers[1].port, requests, workload.n_clients)
    n_texts = sum(map(len, workload.requests))
    return CacheRun(scenario.name, n_texts, *(seconds[server.port] for server in servers), again.wall_s)


def _miss(run: CacheRun) -> float:
    return run.miss_s / run.plain_s


def _hit(run: CacheRun) -> float:
    return run.plain_s / run.hit_s


def render_cache(runs: list[CacheRun]) -> str:
    lines = []
    for name in dict.fromkeys(run.scenario for run in runs):
        chosen = [run for run in runs if run.scenario == name]
        misses = sorted(map(_miss, chosen))
        lines.append(
            [
                name,
                f"{median(run.n_texts / run.plain_s for run in chosen):,.0f}",
                f"{median(misses):.3f}",
                f"{misses[0]:.3f} to {misses[-1]:.3f}",
                f"{median(run.n_texts / run.hit_s for run in chosen):,.0f}",
                f"{median(map(_hit, chosen)):.1f}",
            ]
        )
    header = ("scenario", "texts/s", "time of new texts, with / without", "range", "known texts/s", "times as fast")
    return f"With and without a cache (medians of {len(runs) // len(lines)} rounds):\n\n{table(header, lines)}"
