"""Measures ingestion jobs: what share of the engine's own throughput arrives in a sink, and whether it stays even."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from random import Random
from statistics import median

from benchmarks.models import default_tokenizer
from benchmarks.report import table
from benchmarks.scenarios import SCENARIOS, make_workload, scale
from benchmarks.static import make_texts, write_model
from gguf_embed.convert.static import convert_static
from gguf_embed.errors import ConfigError, EngineFailure

ENGINE = "engine"
SINKS = ("null", "parquet", "lancedb", "sqlite", "duckdb", "jsonl", "npy")
PACKAGES = {"lancedb": "lancedb", "duckdb": "duckdb"}
N_PASSAGES = 1_500
N_SHORT = 200_000


@dataclass(frozen=True, slots=True)
class IngestSettings:
    """What to measure."""

    n_rounds: int = 3
    factor: float = 1.0  # for the numbers of rows
    seed: str = "1"
    sinks: Sequence[str] = SINKS
    urls: Sequence[str] = ()  # of databases that run already, with {table} for the name of a new table


@dataclass(frozen=True, slots=True)
class IngestRun:
    """One job from start to end, without loading the model."""

    kind: str  # "passages" with the default model, "short" with a static one
    sink: str
    round_: int
    rows: int
    tokens: int
    seconds: float
    peak_mb: float
    last_to_first: float  # rows per second in the last tenth, times that of the first one

    @property
    def rows_per_s(self) -> float:
        return self.rows / self.seconds


def measure_ingest(settings: IngestSettings, scratch: Path, say: Callable[[str], None]) -> list[IngestRun]:
    """Raises `ConfigError` if the packages for jobs are not installed."""
    if find_spec("pyarrow") is None:
        raise ConfigError("jobs need their packages: pip install -e '.[lancedb]'")
    sinks = [ENGINE, *(name for name in settings.sinks if find_spec(PACKAGES.get(name, "pyarrow"))), *settings.urls]
    convert_static(write_model(scratch / "static"), scratch / "static.gguf", "f32", report=lambda line: None)
    runs = []
    for kind, model in (("passages", ""), ("short", str(scratch / "static.gguf"))):
        source = scratch / f"{kind}.jsonl"
        _write_source(kind, source, settings)
        for round_ in range(1, settings.n_rounds + 1):
            for sink in sinks:
                runs.append(_run(kind, sink, round_, model, source, scratch))
                say(f"round {round_} {kind:9} {runs[-1].sink:9} {runs[-1].rows_per_s:10,.0f} rows/s")
    return runs


def _write_source(kind: str, path: Path, settings: IngestSettings) -> None:
    if kind == "passages":
        scenario = next(scenario for scenario in SCENARIOS if scenario.name == "passages")
        n_texts = scenario.n_requests * scenario.texts_per_request[0]
        workload = make_workload(scale(scenario, settings.factor * N_PASSAGES / n_texts), settings.seed)
        texts = [text for request in workload.requests for text in request]
    else:
        words = [word for word in default_tokenizer()["model"]["vocab"] if word.isalpha() and word.isascii()]
        Random(settings.seed).shuffle(words)
        texts = make_texts(Random(settings.seed), words, round(N_SHORT * settings.factor), 10)
    with path.open("w", encoding="utf-8") as file:
        for number, text in enumerate(texts):
            file.write(json.dumps({"id": f"row-{number}", "text": text}) + "\n")


def _run(kind: str, sink: str, round_: int, model: str, source: Path, scratch: Path) -> IngestRun:
    target = scratch / "target"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    url = url_of(sink, target / "rows", f"bench_{kind}_{round_}")
    command = [sys.executable, "-m", "benchmarks.ingest_run", model, str(source), url, str(target / "state.db")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent.parent)
    if done.returncode:
        raise EngineFailure(f"ingesting into {sink} failed: {done.stderr.strip().splitlines()[-1]}")
    found = json.loads(done.stdout.splitlines()[-1])
    tenths = found.pop("tenths")
    ratio = tenths[-1] / tenths[0] if tenths else 0.0
    return IngestRun(kind, sink.partition(":")[0], round_, last_to_first=ratio, **found)


def url_of(sink: str, path: Path, table: str) -> str:
    if ":" in sink:
        return sink.replace("{table}", table)
    return {ENGINE: ENGINE, "null": "null:"}.get(sink, f"{sink}:{path}")


def render_ingest(runs: Sequence[IngestRun]) -> str:
    """A table of medians. The share is that of the engine alone in the same round."""
    engine = {(run.kind, run.round_): run.rows_per_s for run in runs if run.sink == ENGINE}
    lines = []
    for kind, sink in dict.fromkeys((run.kind, run.sink) for run in runs):
        chosen = [run for run in runs if (run.kind, run.sink) == (kind, sink)]
        shares = [run.rows_per_s / engine[kind, run.round_] for run in chosen]
        lines.append(
            [
                kind,
                sink,
                f"{median(run.rows_per_s for run in chosen):,.0f}",
                f"{median(run.tokens / run.seconds for run in chosen):,.0f}",
                f"{median(shares):.0%} ({min(shares):.0%} to {max(shares):.0%})",
                f"{median(run.last_to_first for run in chosen):.2f}" if sink != ENGINE else "",
                f"{max(run.peak_mb for run in chosen):,.0f}",
            ]
        )
    header = ("rows", "sink", "rows/s", "tokens/s", "share of the engine", "last tenth/first", "peak MB")
    return f"Ingestion jobs:\n\n{table(header, lines)}"
