"""Turns runs into ratios with their spread, and into tables. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.limit import MatmulRate
from benchmarks.machine import MachineFacts
from benchmarks.servers import Memory


@dataclass(frozen=True, slots=True)
class Run:
    """One run of one scenario on one server."""

    round: int
    scenario: str
    server: str
    n_texts: int
    n_tokens: int  # as counted by this server
    model_flops: float  # operations that the model needs for these texts, without padding
    wall_s: float
    latencies_s: tuple[float, ...]
    generator_cpu_share: float  # of all cores, during the run
    server_cpu_share: float
    others_cpu_share: float  # of the servers that should be idle
    n_reconnects: int
    min_cosine: float  # to the first server's vectors of the same texts, or correlation with its scores

    @property
    def texts_per_s(self) -> float:
        return self.n_texts / self.wall_s

    @property
    def tokens_per_s(self) -> float:
        return self.n_tokens / self.wall_s


@dataclass(frozen=True, slots=True)
class Spread:
    """A value over the rounds."""

    median: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class ServerSummary:
    """One server in one scenario. Rates are medians over the rounds; latencies are over all requests of all rounds."""

    scenario: str
    server: str
    texts_per_s: float
    tokens_per_s: float
    p50_ms: float
    p99_ms: float
    flops_per_s: float


@dataclass(frozen=True, slots=True)
class RatioSummary:
    """The first server against another in one scenario, from pairs of the same round."""

    scenario: str
    against: str
    throughput: Spread  # texts/s, ours over theirs: above 1 is faster
    p50: Spread  # latency, ours over theirs: below 1 is faster


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """Facts about a server that do not depend on a scenario."""

    server: str
    command: tuple[str, ...]
    starts_s: tuple[float, ...]  # from exec to the first correct reply, each time in a new process
    memory: Memory  # after its last run
    rested: Memory  # some seconds after everybody's
    notes: tuple[str, ...] = ()  # which weights and kernels it chose


@dataclass(frozen=True, slots=True)
class Comparison:
    """All measurements. The other servers are compared with `servers[0]`."""

    settings: dict[str, str]
    machine: MachineFacts
    rates: tuple[MatmulRate, ...]  # fastest first
    servers: tuple[ServerFacts, ...]
    runs: tuple[Run, ...]


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value such that at least `share` (0..1] of all values are not above it: nearest rank."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def spread(values: Sequence[float]) -> Spread:
    return Spread(median(values), min(values), max(values))


def summarize_servers(runs: Sequence[Run]) -> list[ServerSummary]:
    """One line per scenario and server, in the order of their first runs."""
    summaries = []
    for scenario, server in dict.fromkeys((run.scenario, run.server) for run in runs):
        chosen = _select(runs, scenario, server)
        latencies = [latency for run in chosen for latency in run.latencies_s]
        summaries.append(
            ServerSummary(
                scenario,
                server,
                texts_per_s=median(run.texts_per_s for run in chosen),
                tokens_per_s=median(run.tokens_per_s for run in chosen),
                p50_ms=percentile(latencies, 0.50) * 1000,
                p99_ms=percentile(latencies, 0.99) * 1000,
                flops_per_s=median(run.model_flops / run.wall_s for run in chosen),
            )
        )
    return summaries


def summarize_ratios(runs: Sequence[Run], ours: str) -> list[RatioSummary]:
    """Compare runs of the same round, so that a machine that slows down affects both."""
    ratios = []
    for scenario, server in dict.fromkeys((run.scenario, run.server) for run in runs):
        pairs = list(zip(_select(runs, scenario, ours), _select(runs, scenario, server), strict=True))
        if server == ours:
            continue
        throughputs = [mine.texts_per_s / theirs.texts_per_s for mine, theirs in pairs]
        p50s = [percentile(mine.latencies_s, 0.5) / percentile(theirs.latencies_s, 0.5) for mine, theirs in pairs]
        ratios.append(RatioSummary(scenario, server, spread(throughputs), spread(p50s)))
    return ratios


def render(comparison: Comparison) -> str:
    """The report as text: the machine, the tables, and notes on how far to trust them."""
    parts = [
        _render_machine(comparison),
        _render_servers(comparison),
        _render_ratios(comparison),
        _render_facts(comparison),
        _render_notes(comparison),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table with aligned columns: the first two are text, the others numbers."""
    lines = [list(header), *(list(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]

    def line_of(cells: Sequence[str]) -> str:
        padded = (
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return "| " + " | ".join(padded) + " |"

    rule = "|" + "|".join("-" * (w + 2) if c < 2 else "-" * (w + 1) + ":" for c, w in enumerate(widths)) + "|"
    return "\n".join([line_of(lines[0]), rule, *(line_of(line) for line in lines[1:])])


def _select(runs: Sequence[Run], scenario: str, server: str) -> list[Run]:
    chosen = [run for run in runs if run.scenario == scenario and run.server == server]
    return sorted(chosen, key=lambda run: run.round)


def _render_machine(comparison: Comparison) -> str:
    machine = comparison.machine
    versions = ", ".join(f"{name} {number}" for name, number in machine.versions.items() if number)
    settings = ", ".join(f"{name} {value}" for name, value in comparison.settings.items())
    return "\n".join(
        [
            f"machine: {machine.processor}, {machine.n_cores} cores ({' '.join(machine.features)}), {machine.system}",
            f"load average before: {machine.load_average:.2f}",
            f"versions: Python {machine.python}, {versions}, commit {machine.commit or 'unknown'}",
            f"settings: {settings}",
        ]
    )


def _render_servers(comparison: Comparison) -> str:
    rows = [
        [
            line.scenario,
            line.server,
            f"{line.texts_per_s:.1f}",
            f"{line.tokens_per_s:.0f}",
            f"{line.p50_ms:.1f}",
            f"{line.p99_ms:.1f}",
            *(f"{line.flops_per_s / rate.flops_per_s:.0%}" for rate in comparison.rates),
        ]
        for line in summarize_servers(comparison.runs)
    ]
    limits = [f"of {rate.name}" for rate in comparison.rates]
    return table(["scenario", "server", "texts/s", "tokens/s", "p50 ms", "p99 ms", *limits], rows)


def _render_ratios(comparison: Comparison) -> str:
    ours = comparison.servers[0].server
    rows = [
        [ratio.scenario, ratio.against, *_cells(ratio.throughput), *_cells(ratio.p50)]
        for ratio in summarize_ratios(comparison.runs, ours)
    ]
    if not rows:
        return ""
    header = ["scenario", f"{ours} against", "texts/s", "min..max", "p50", "min..max"]
    return "ratios, median over rounds (texts/s: above 1 is faster; p50: below 1 is faster)\n\n" + table(header, rows)


def _cells(value: Spread) -> tuple[str, str]:
    return f"{value.median:.2f}x", f"{value.low:.2f}..{value.high:.2f}"


def _render_facts(comparison: Comparison) -> str:
    rows = []
    for facts in comparison.servers:
        starts = spread(facts.starts_s)
        rows.append(
            [
                facts.server,
                f"`{' '.join(facts.command[1:])}`",
                f"{starts.median:.2f}",
                f"{starts.low:.2f}..{starts.high:.2f}",
                f"{facts.memory.resident_bytes / 1e6:.0f}",
                f"{facts.rested.resident_bytes / 1e6:.0f}",
                f"{facts.memory.peak_bytes / 1e6:.0f}",
            ]
        )
    return table(["server", "flags", "start s", "min..max", "resident MB", "at rest MB", "peak MB"], rows)


def _render_notes(comparison: Comparison) -> str:
    runs = comparison.runs
    notes = [f"{facts.server}: {note}" for facts in comparison.servers for note in facts.notes]
    notes += [f"limit: {rate.name}, {rate.detail}: {rate.flops_per_s / 1e9:.0f} GFLOP/s" for rate in comparison.rates]
    worst = min(run.min_cosine for run in runs)
    notes.append(
        f"answers agree: worst cosine of a text's vectors (rerank: correlation of a request's scores) {worst:.6f}"
    )
    notes.append(f"load generator: at most {max(run.generator_cpu_share for run in runs):.1%} of the cores")
    notes.append(f"idle servers: at most {max(run.others_cpu_share for run in runs):.1%} of the cores")
    for scenario, round_ in dict.fromkeys((run.scenario, run.round) for run in runs):
        counts = {run.n_tokens for run in runs if (run.scenario, run.round) == (scenario, round_)}
        if len(counts) > 1:
            notes.append(f"token counts differ in {scenario}, round {round_}: {sorted(counts)}; compare texts/s")
    return "\n".join(notes)
