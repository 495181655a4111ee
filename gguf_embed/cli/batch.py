"""`gguf-embed batch`: the requests of a file in OpenAI's batch format, without a server."""

from __future__ import annotations

import asyncio
import hashlib
import math
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gguf_embed import __version__
from gguf_embed.cli.command import Command
from gguf_embed.cli.flag_types import FilePath
from gguf_embed.cli.interrupts import quitting
from gguf_embed.cli.model_flags import model_option
from gguf_embed.cli.standard_output import Use
from gguf_embed.errors import ConfigError, is_full

if TYPE_CHECKING:
    from gguf_embed.batch.check import Checked
    from gguf_embed.batch.line_log import Results
    from gguf_embed.batch.lines import Rules
    from gguf_embed.cli.progress import Bar
    from gguf_embed.metrics import Metrics
    from gguf_embed.service.service import EmbedService

LINES_FAILED = 3
"""The exit code if the output is complete but for lines that failed."""

PATIENCE_S = 60.0
UNLIMITED, UNLIMITED_S = 2**62, 1e6
MAX_WRONG_SHOWN = 20
REDRAW_S = 0.5
EXAMPLES = """\b
gguf-embed batch -i requests.jsonl -o vectors.jsonl
gguf-embed batch -m bge-reranker-v2-m3 -i pairs.jsonl -o scores.jsonl --errors failed.jsonl
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchFlags:
    """The flags as click parsed them."""

    model: str | None
    input: Path
    output: Path
    errors: Path | None

    @property
    def errors_path(self) -> Path:
        return self.errors or self.output.with_name(f"{self.output.stem}.errors{self.output.suffix}")


@click.command(cls=Command, use=Use.REPORT, context_settings={"auto_envvar_prefix": None}, epilog=EXAMPLES)
@model_option(", for all lines, whatever they name.  [default: all-MiniLM-L6-v2]")
@click.option(
    "-i",
    "--input",
    required=True,
    type=FilePath(exists=True),
    metavar="FILE",
    help="JSONL: `custom_id`, `method`, `url` (/v1/embeddings or /v1/rerank) and `body` in each line.",
)
@click.option(
    "-o",
    "--output",
    required=True,
    type=FilePath(),
    metavar="FILE",
    help="Write the replies into this file, which appears when it is complete.",
)
@click.option(
    "--errors",
    type=FilePath(),
    metavar="FILE",
    help="Write the lines that failed into this file, if there are any. Default: OUTPUT.errors.jsonl.",
)
def batch(**typed: Any) -> None:
    """Compute the requests of a file in the format of OpenAI's Batch API.

    After an interruption, the same command continues. Any number of lines can be read. The exit code is 3 if lines
    failed.
    """
    if run(BatchFlags(**typed)):
        sys.exit(LINES_FAILED)


def run(flags: BatchFlags) -> int:
    """How many lines failed. Raises `EmbedError`s."""
    with quitting():
        from gguf_embed.batch.check import check_input
        from gguf_embed.batch.records import BatchLimits
        from gguf_embed.server.app import DIALECTS
        from gguf_embed.server.batch_lines import line_routes, line_rules

    limits = BatchLimits(max_requests=None, max_inputs=None)
    rules = line_rules(frozenset(line_routes(DIALECTS)), limits)
    with _readable(flags.input), flags.input.open("rb") as stream:
        checked = check_input(stream, rules)
    if checked.errors:
        raise ConfigError(_wrong_lines(flags.input, checked))
    with _writable([flags.output, flags.errors_path]), _results(flags, checked) as results:
        try:
            asyncio.run(_compute(flags, rules, results, checked.n_requests))
        except KeyboardInterrupt:
            click.echo("the same command continues where this one was stopped", err=True)
            raise
        results.sync()
        _publish(results.output.path, flags.output, results.output.n_bytes)
        _publish(results.errors.path, flags.errors_path, results.errors.n_bytes)
        return results.n_failed


def _wrong_lines(path: Path, checked: Checked) -> str:
    shown = [f"{path}:{error.line or 0}: {error.message}" for error in checked.errors[:MAX_WRONG_SHOWN]]
    more = len(checked.errors) - len(shown)
    return "\n".join(
        [f"{path} has wrong lines, so nothing is computed", *shown, *([f"and {more} more"] if more else [])]
    )


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error


@contextmanager
def _writable(paths: Sequence[Path]) -> Iterator[None]:
    """Turns the `OSError`s of these files, and of their parts, into errors that name them; not those of others."""
    known = {str(own): path for path in paths for own in (path, _part(path))}
    try:
        yield
    except OSError as error:
        path = known.get(str(error.filename))
        if path is None:
            raise
        free = "free some space, or " if is_full(error) else ""
        raise ConfigError(
            f"{path} cannot be written ({error.strerror}): {free}choose another folder; the same command continues"
        ) from error


def _part(path: Path) -> Path:
    """Where the lines are until all are there."""
    return path.with_name(f"{path.name}.part")


@contextmanager
def _results(flags: BatchFlags, checked: Checked) -> Iterator[Results]:
    """The lines of an earlier run of the same input with the same model. Raises `ConfigError` for others'."""
    from gguf_embed.batch.line_log import Results
    from gguf_embed.batch.lines import read_written
    from gguf_embed.batch.store import lock_file

    key = hashlib.blake2b(f"{checked.sha256} {flags.model}".encode(), digest_size=16).hexdigest()
    output, errors = (_part(path) for path in (flags.output, flags.errors_path))
    output.touch()  # with the user's own permissions
    lock = lock_file(output)
    if lock is None:
        raise ConfigError(f"{output} is written by another process: wait for it, or choose another -o")
    try:
        for path in (output, errors):
            with path.open("ab+") as stream:
                stream.seek(0)
                first = stream.readline()
            if first.endswith(b"\n") and read_written(first, key) is None:
                raise ConfigError(
                    f"{path} has lines of another input or model: delete it, or choose another file for this run"
                )
        results = Results(output, errors, key)
        try:
            yield results
        finally:
            results.close()
    finally:
        os.close(lock)


def _publish(part: Path, path: Path, n_bytes: int) -> None:
    """Without lines, the file of errors is none, also if an earlier run has left one."""
    if n_bytes:
        os.replace(part, path)
    else:
        part.unlink(missing_ok=True)
        path.unlink(missing_ok=True)


async def _compute(flags: BatchFlags, rules: Rules, results: Results, n_requests: int) -> None:
    from gguf_embed.batch.run_lines import LineRun, run_lines
    from gguf_embed.metrics import Metrics
    from gguf_embed.server.app import DIALECTS
    from gguf_embed.server.batch_lines import answer_for
    from gguf_embed.server.context import ServerContext, ServerOptions
    from gguf_embed.server.http.body_memory import BodyMemories

    metrics = Metrics()
    service = _open_service(flags.model, metrics)
    try:
        await service.load_first()
        bodies = BodyMemories.of(UNLIMITED)
        context = ServerContext(
            service, ServerOptions(__version__), metrics, DIALECTS, int(time.time()), body_memory=bodies
        )
        answer = answer_for(context, f"gguf-embed/{__version__}")
        run = LineRun(flags.input, rules, results, answer, nullcontext, PATIENCE_S)
        showing = asyncio.create_task(_show(results, n_requests))
        try:
            await run_lines(run)
        finally:
            showing.cancel()
            await asyncio.gather(showing, return_exceptions=True)
    finally:
        await service.close()


def _open_service(model: str | None, metrics: Metrics) -> EmbedService:
    from gguf_embed.config import ComputeConfig, ModelConfig, OffloadConfig, PoolConfig, PoolLimits, QueueConfig
    from gguf_embed.embedder.model_source import gpu_layers, source_of
    from gguf_embed.model_store.default_model import cache_dir
    from gguf_embed.service.open import ServiceOptions, open_service

    compute = ComputeConfig(offload=OffloadConfig(n_gpu_layers=gpu_layers("auto", "auto")))
    config = ModelConfig(queue=QueueConfig(max_tokens=UNLIMITED, max_wait_s=UNLIMITED_S), compute=compute)
    options = ServiceOptions(
        cache_dir(os.environ),
        [(source_of(model), config)],
        config,
        PoolConfig(PoolLimits(max_models=0), math.inf),
    )
    return open_service(options, metrics, lambda line: click.echo(line, err=True))


async def _show(results: Results, n_requests: int) -> None:
    """Says how far it is: all the time on a terminal, at the end elsewhere. Syncs the lines to the disk."""
    began_s, n_before = time.monotonic(), results.n_completed + results.n_failed
    bar = _open_bar(n_before)
    try:
        while True:
            await asyncio.sleep(REDRAW_S)
            await asyncio.to_thread(results.sync)
            if bar is not None:
                bar.update(results.n_completed + results.n_failed, n_requests, amount(results, n_requests))
    finally:
        if bar is not None:
            bar.stop()
        click.echo(progress(results, n_requests, n_before, time.monotonic() - began_s), err=True)


def _open_bar(n_before: int) -> Bar | None:
    if not sys.stderr.isatty():
        return None
    from gguf_embed.cli.progress import Bar

    bar = Bar(sys.stderr)
    bar.begin("computing", completed=n_before, speed=lambda rate: f"{rate:,.0f}/s")
    return bar


def amount(results: Results, n_requests: int) -> str:
    """ "1,200 of 10,000 lines, 3 failed"."""
    failed = f", {results.n_failed:,} failed" if results.n_failed else ""
    return f"{results.n_completed + results.n_failed:,} of {n_requests:,} lines{failed}"


def progress(results: Results, n_requests: int, n_before: int, elapsed_s: float) -> str:
    """ "1,200 of 10,000 lines, 3 failed, 400/s". `n_before`: lines that an earlier run has computed."""
    n_new = results.n_completed + results.n_failed - n_before
    return f"{amount(results, n_requests)}, {n_new / max(elapsed_s, 1e-3):,.0f}/s"
