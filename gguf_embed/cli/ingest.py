"""`gguf-embed ingest`: fills a vector database from files, folders or tables."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gguf_embed.cli.command import Command, in_group
from gguf_embed.cli.flag_types import Number
from gguf_embed.cli.ingest_model import kinds_of_vectors, model_options, open_job_pool, runner_options
from gguf_embed.cli.standard_output import Use
from gguf_embed.errors import ConfigError

if TYPE_CHECKING:
    from gguf_embed.ingest.job.run import JobOptions
    from gguf_embed.ingest.pool.base import EmbedPool


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestFlags:
    """The flags as click parsed them."""

    source: tuple[str, ...]
    to: str
    text_field: tuple[str, ...]
    id_field: str | None
    metadata: tuple[str, ...]
    query: str | None
    chunk: str
    model: str | None
    endpoint: tuple[str, ...]
    api_key: str | None
    input_type: str | None
    pooling: str | None
    dimensions: int | None
    truncate: bool
    vectors: str
    muvera: str | None
    runner: str
    ray_address: str | None
    limit: int | None
    dry_run: bool
    prune: bool
    max_errors: int
    rejects: Path | None
    index: Any
    force: bool
    state: Path | None
    rebuild_state: bool
    json: bool


EXAMPLES = """\b
gguf-embed ingest docs/ --to 'lancedb:vectors?table=docs'
gguf-embed ingest export.parquet --id-field key --to 'postgresql://me@db/app?table=items'"""


def require_sink(context: click.Context, option: click.Parameter, value: str | None) -> str:
    """click names a flag that is missing, but not what it may be."""
    if value is None:
        raise click.UsageError(
            "--to is missing, which says where the rows go: for example, --to 'lancedb:vectors?table=docs'", context
        )
    return value


@click.command(cls=Command, use=Use.REPORT, context_settings={"auto_envvar_prefix": None}, epilog=EXAMPLES)
@click.argument("source", nargs=-1, required=True)
@in_group(
    "Source",
    click.option(
        "--text-field",
        multiple=True,
        metavar="NAME",
        help="Field with the text; several are joined. Default: text, content, body, document, or the only one.",
    ),
    click.option(
        "--id-field", metavar="NAME", help="Field with the id. Default: id, _id, doc_id or uuid; else the line."
    ),
    click.option("--metadata", multiple=True, metavar="NAME", help="Field to store beside the text; * for all others."),
    click.option("--query", metavar="SQL", help="What to read from a database."),
    click.option(
        "--chunk",
        default="auto",
        show_default=True,
        metavar="SIZE",
        help="Tokens per chunk, as in 256,overlap=32,by=markdown; none: store documents whole. auto: 256 for "
        "documents in files, none for rows.",
    ),
    click.option("--limit", type=Number(min=1), metavar="N", help="Read only the first N documents."),
)
@in_group(
    "Vectors",
    model_options("all-MiniLM-L6-v2", "document"),
    click.option(
        "--vectors",
        default="dense",
        show_default=True,
        metavar="KINDS",
        help="What to store for each text: dense, sparse, multivector, muvera, or several of them, as in dense,sparse. "
        "Sparse vectors go to Qdrant, PostgreSQL and Milvus, multi-vectors to Qdrant; muvera makes a dense vector of a "
        "multi-vector, for every sink.",
    ),
    click.option(
        "--muvera",
        metavar="SETTINGS",
        help="How --vectors muvera makes them. Default: k_sim=5,dim_proj=16,r_reps=20,random_seed=42, which are 10,240 "
        "numbers: r_reps x 2^k_sim x dim_proj.",
    ),
    runner_options,
)
@in_group(
    "Storage",
    click.option(
        "--to", callback=require_sink, metavar="URL", help="Where the rows go, e.g. 'lancedb:vectors?table=notes'."
    ),
    click.option(
        "--index",
        type=click.Choice(["after", "keep", "none"]),
        default="keep",
        show_default=True,
        help="The vector index: build it after the load, leave it as it is, or have none.",
    ),
    click.option("--prune", is_flag=True, help="Delete stored documents that the source does not have any more."),
    click.option("--force", is_flag=True, help="Replace the rows of another model or other settings."),
)
@in_group(
    "Job",
    click.option("--dry-run", is_flag=True, help="Read and cut into chunks, but embed and store nothing."),
    click.option(
        "--max-errors",
        type=int,
        default=100,
        show_default=True,
        metavar="N",
        help="Stop after so many rejected rows; -1: never.",
    ),
    click.option(
        "--rejects",
        type=click.Path(dir_okay=False, path_type=Path),
        metavar="FILE",
        help="Write rejected rows there, as JSON lines with place and reason.",
    ),
    click.option(
        "--state",
        type=click.Path(dir_okay=False, path_type=Path),
        metavar="FILE",
        help="Where the job notes what is stored. Default: a file per sink in ~/.local/state/gguf-embed.",
    ),
    click.option("--rebuild-state", is_flag=True, help="Forget the state, and read it again from what is stored."),
    click.option("--json", is_flag=True, help="Print events as JSON lines instead of a progress bar."),
)
def ingest(**typed: Any) -> None:
    """Embed documents, and store them in a vector database.

    SOURCE is a file (JSONL, CSV, Parquet, text, Markdown, PDF, HTML), a folder of them, a database's URL, or - for
    standard input. A job can be interrupted at any moment: run the same command again, and it goes on. Documents that
    are stored and unchanged are skipped.
    """
    status = run_job(IngestFlags(**typed))
    if status:
        sys.exit(status)


def run_job(flags: IngestFlags) -> int:
    """The exit code: 0; 1 if the job ended before the source did; 130 after Ctrl-C."""
    from gguf_embed.cli.ingest_end import StopSignals, exit_code, is_searchable, search_command
    from gguf_embed.cli.ingest_report import open_report
    from gguf_embed.ingest.job.counters import Ledger
    from gguf_embed.ingest.job.rejects import Rejects
    from gguf_embed.ingest.job.run import Job
    from gguf_embed.ingest.job.setup import choose_chunking, default_state_path, name_of_sink, open_sources
    from gguf_embed.ingest.job.state import JobState
    from gguf_embed.ingest.sinks.open import check_vectors, open_sink, parse_url

    check_flags(flags)
    check_vectors(parse_url(flags.to), kinds_of_vectors(flags))
    with StopSignals() as signals, ExitStack() as stack:
        report = stack.enter_context(open_report(sys.stdout, as_json=flags.json))
        source = open_sources(flags.source, source_options(flags))
        stack.callback(source.close)
        rejects = Rejects(flags.rejects, flags.max_errors)
        stack.callback(rejects.close)
        sink = open_sink("null:" if flags.dry_run else flags.to)
        stack.callback(sink.close)
        pool = open_job_pool(flags)
        stack.callback(pool.close)
        chunking = choose_chunking(flags.chunk, pool, has_documents=source.kind == "markdown" or _is_text(flags.source))
        state_path = flags.state or default_state_path(name_of_sink(flags.to), os.environ)
        state = JobState(Path(":memory:") if flags.dry_run else state_path, name_of_source(flags.source))
        stack.callback(state.close)
        options = job_options(flags, chunking.settings)
        job = Job(source, sink, _without_work(pool) if flags.dry_run else pool, state, rejects, Ledger(report.update))
        manifest, notice = job.prepare(options)
        report.start(source.name, sink.name, manifest, notice, chunking.chunker)
        signals.stop(job, report)
        outcome = job.run(manifest, chunking.chunker.split if chunking.chunker else None, options)
        report.end(outcome, rejects, is_dry=flags.dry_run)
        if not flags.json and is_searchable(flags, manifest, outcome):
            report.say(f"search it: {search_command(flags)}")
        return exit_code(outcome)


def check_flags(flags: IngestFlags) -> None:
    """What can be said before a model is loaded. Raises `ConfigError`."""
    if flags.prune and flags.limit:
        raise ConfigError("--prune needs a whole source, --limit cuts it: give only one of them")


def source_options(flags: IngestFlags) -> Any:
    from gguf_embed.ingest.sources.base import SourceOptions

    return SourceOptions(flags.text_field, flags.id_field, flags.metadata, flags.query)


def job_options(flags: IngestFlags, settings: Any) -> JobOptions:
    from gguf_embed.ingest.chunking.settings import settings_json
    from gguf_embed.ingest.job.run import JobOptions

    return JobOptions(
        chunking=settings_json(settings),
        limit=flags.limit,
        prune=flags.prune,
        force=flags.force,
        rebuild_state=flags.rebuild_state,
        index=flags.index,
        model_source=model_source(flags.model),
    )


def model_source(model: str | None) -> str:
    """What `search` opens: a file by its absolute path."""
    return str(Path(model).absolute()) if model and Path(model).exists() else model or ""


def name_of_source(locations: tuple[str, ...]) -> str:
    """The same for every way to write a relative path: documents are pruned by their source."""
    return "\n".join(str(Path(place).absolute()) if Path(place).exists() else place for place in locations)


def _is_text(locations: tuple[str, ...]) -> bool:
    """Whether documents come from text files, which are cut into chunks unless told otherwise."""
    from gguf_embed.ingest.sources.file_kinds import text_kind

    paths = [Path(location) for location in locations]
    return all((path.is_dir() and not (path / "state.json").exists()) or text_kind(path.name) for path in paths)


def _without_work(pool: EmbedPool) -> EmbedPool:
    from gguf_embed.ingest.pool.dry import DryPool

    return DryPool(pool)
