"""What a soak found: whether it is as it must be, and the table for docs/reliability.md."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks.soaked_server import Life

MIN_COSINE = 0.9999
MAX_GROWTH = 0.05
WARM_UP = 0.25
"""The part of a process's life that is not compared."""

SLACK = {"resident_mib": 16.0, "threads": 6.0, "descriptors": 4.0}
"""Growth that does not count, whatever its part. The event loop starts up to six threads when it first needs them."""


@dataclass(slots=True)
class Tally:
    """What the clients saw. A lock is not needed for counting under the interpreter's own."""

    statuses: dict[int, int] = field(default_factory=dict)
    n_texts: int = 0
    n_vanished: int = 0
    n_turned_away: int = 0  # by a server that stops or is not there
    lost: list[str] = field(default_factory=list)
    worst_cosine: float = 1.0
    query_s: list[float] = field(default_factory=list)


def growth(life: Life, name: str) -> tuple[float, float]:
    """The least of the first and of the last third of a life, after its warm-up: while the second model is away."""
    values = [sample[name] for sample in life.samples]
    values = values[int(len(values) * WARM_UP) :]
    third = max(1, len(values) // 3)
    return min(values[:third]), min(values[-third:])


def problems_of(tally: Tally, lives: Sequence[Life], max_growth: float = MAX_GROWTH) -> list[str]:
    """What is not as it must be; empty if all is well."""
    problems = [f"not answered: {text}" for text in tally.lost[:20]]
    if tally.worst_cosine < MIN_COSINE:
        problems.append(f"a vector differs from its reference: cosine {tally.worst_cosine:.6f}")
    if 200 not in tally.statuses:
        problems.append("nothing was answered")
    for number, life in enumerate(lives, start=1):
        if life.exit_code != 0:
            problems.append(f"process {number} ended with {life.exit_code}: {life.last_line}")
        if len(life.samples) < 6:
            problems.append(f"process {number} has only {len(life.samples)} samples")
            continue
        for name, slack in SLACK.items():
            first, last = growth(life, name)
            if last - first > max(slack, max_growth * first):
                problems.append(f"process {number}: {name} grew from {first:.1f} to {last:.1f}")
    return problems


def table(tally: Tally, lives: Sequence[Life]) -> list[str]:
    queries = sorted(tally.query_s) or [0.0]
    shown = ", ".join(f"{n} × {status}" for status, n in sorted(tally.statuses.items()))
    rows = [
        ("requests", shown),
        ("texts whose vectors were compared", f"{tally.n_texts}, lowest cosine {tally.worst_cosine:.6f}"),
        ("clients that vanished", str(tally.n_vanished)),
        ("turned away around the restart", str(tally.n_turned_away)),
        ("accepted and not answered", str(len(tally.lost))),
        ("one text beside the others, p50 / p95", f"{pick(queries, 0.5):.3f} / {pick(queries, 0.95):.3f} s"),
    ]
    for number, life in enumerate(lives, start=1):
        for name in SLACK:
            if len(life.samples) >= 6:
                first, last = growth(life, name)
                rows.append((f"process {number}: {name}", f"{first:.1f} → {last:.1f}"))
    return ["| Measure | Value |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)]


def pick(ordered: Sequence[float], part: float) -> float:
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]
