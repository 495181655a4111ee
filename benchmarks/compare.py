"""Compare gguf-embed with llama-server over HTTP on the same GGUF and cores: `python -m benchmarks.compare`.

The scenario "static" compares static models with the package model2vec, if it is installed. Prints tables with the
ratios and writes all measurements to benchmarks/results/. See docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import sys
import time
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

from benchmarks.comparison import CompareSettings, run_comparison
from benchmarks.report import Comparison, render, summarize_ratios, summarize_servers
from benchmarks.scenarios import SCENARIOS
from benchmarks.servers import CONTESTANTS, OURS, make_before, make_contestant
from benchmarks.static import StaticSettings, compare_static, render_static
from gguf_embed.errors import EmbedError
from gguf_embed.model_store.default_model import cache_dir, resolve_default

RESULTS = Path(__file__).parent / "results"
STATIC = "static"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=__doc__)
    parser.add_argument("-m", "--model", type=Path, help="GGUF file (the default model)")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each scenario on each server (5)")
    parser.add_argument("--quick", action="store_true", help="2 rounds of a quarter of the requests: for a first look")
    names = [*(scenario.name for scenario in SCENARIOS), STATIC]
    parser.add_argument("--scenario", action="append", choices=names, help="only this one; may be repeated")
    parser.add_argument("--before", type=Path, metavar="CHECKOUT", help="compare with another checkout of gguf-embed")
    parser.add_argument("--server", action="append", choices=CONTESTANTS, help="only this one; may be repeated")
    parser.add_argument(
        "--encoding-format", choices=("base64", "float"), default="base64", help="base64, as clients do"
    )
    parser.add_argument("--seed", default="1", help="of the texts (1)")
    parser.add_argument("--serve-flags", default="", help='more flags for gguf-embed serve, e.g. "--threads 1"')
    parser.add_argument("--torch-python", default=sys.executable, help="an interpreter with torch, for the BF16 limit")
    parser.add_argument("--static-model", type=Path, help="a Model2Vec directory (random rows, which are as fast)")
    parser.add_argument("--output", type=Path, help="JSON file (benchmarks/results/DATE.json)")
    return parser.parse_args()


def compare(arguments: argparse.Namespace) -> Comparison:
    settings = CompareSettings(
        model=arguments.model or resolve_default(cache_dir(os.environ), say),
        n_rounds=min(arguments.rounds, 2) if arguments.quick else arguments.rounds,
        factor=0.25 if arguments.quick else 1.0,
        encoding_format=arguments.encoding_format,
        seed=arguments.seed,
        scenarios=tuple(s for s in SCENARIOS if s.name in (arguments.scenario or [s.name])),
        torch_python=arguments.torch_python,
    )
    flags = tuple(shlex.split(arguments.serve_flags))
    default = [OURS] if arguments.before else CONTESTANTS
    chosen = [name for name in CONTESTANTS if name in (arguments.server or default)]
    contestants = [make_contestant(name, settings.model, flags) for name in chosen]
    if arguments.before:
        contestants.append(make_before(arguments.before, settings.model, flags))
    return run_comparison(settings, contestants, say)


def compare_static_models(arguments: argparse.Namespace) -> None:
    """Print a table. Does nothing if model2vec is missing and the scenario was not named."""
    if STATIC not in (arguments.scenario or [STATIC]):
        return
    if not arguments.scenario and find_spec("model2vec") is None:
        say("skipping static models: they are compared with the package model2vec (pip install model2vec)")
        return
    settings = StaticSettings(
        model=arguments.static_model,
        n_rounds=min(arguments.rounds, 2) if arguments.quick else arguments.rounds,
        factor=0.25 if arguments.quick else 1.0,
        seed=arguments.seed,
    )
    print(render_static(compare_static(settings, say), settings.n_threads))


def write_json(comparison: Comparison, path: Path) -> None:
    ours = comparison.servers[0].server
    document = {
        **asdict(comparison),
        "summary": {
            "servers": [asdict(line) for line in summarize_servers(comparison.runs)],
            "ratios": [asdict(line) for line in summarize_ratios(comparison.runs, ours)],
        },
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1) + "\n")


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def interrupt(*_: object) -> NoReturn:
    """Make Ctrl-C and SIGTERM both stop the servers before the program ends."""
    raise KeyboardInterrupt


def main() -> int:
    arguments = parse_arguments()
    for number in (signal.SIGINT, signal.SIGTERM):  # a background job starts with SIGINT ignored
        signal.signal(number, interrupt)
    try:
        if arguments.scenario != [STATIC]:
            report(compare(arguments), arguments.output)
        compare_static_models(arguments)
    except EmbedError as error:
        say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        say("interrupted; the servers are stopped")
        return 130
    return 0


def report(comparison: Comparison, output: Path | None) -> None:
    print(render(comparison))
    path = output or RESULTS / f"{time.strftime('%Y%m%d-%H%M%S')}.json"
    write_json(comparison, path)
    say(f"written to {path}")


if __name__ == "__main__":
    sys.exit(main())
