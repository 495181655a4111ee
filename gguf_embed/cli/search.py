"""`gguf-embed search`: the nearest rows of what a job has stored."""

from __future__ import annotations

import json
import shlex
import sys
import textwrap
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import click

from gguf_embed.cli.command import Command
from gguf_embed.cli.flag_types import Number
from gguf_embed.cli.ingest_model import model_options, open_pool
from gguf_embed.cli.terminal import NO_TERMINAL_COLUMNS, n_columns_of, shortened, width_of
from gguf_embed.errors import ConfigError
from gguf_embed.types import DENSE, MULTIVECTOR, SPARSE

if TYPE_CHECKING:
    from gguf_embed.ingest.pool.base import Embedded
    from gguf_embed.ingest.rows import Hit, Manifest
    from gguf_embed.ingest.sinks.base import Sink
    from gguf_embed.types import Muvera

TEXT_CHARACTERS = 300
MAX_TABLES = 10
MAX_NAME = 60
INDENT = " " * 7


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchFlags:
    """The flags as click parsed them."""

    url: str
    query: str
    top: int
    json: bool
    model: str | None
    endpoint: tuple[str, ...]
    api_key: str | None
    input_type: str | None
    pooling: str | None
    dimensions: int | None
    truncate: bool


EXAMPLES = """\b
gguf-embed search 'lancedb:vectors?table=docs' "how do I reset my password"
"""


@click.command(cls=Command, context_settings={"auto_envvar_prefix": None}, epilog=EXAMPLES)
@click.argument("url")
@click.argument("query")
@click.option("-n", "--top", type=Number(1, 1000), default=5, show_default=True, help="How many rows to print.")
@model_options("the one of the rows", "query")
@click.option("--json", is_flag=True, help="Print one JSON object per row.")
def search(**typed: Any) -> None:
    """Print the rows nearest to a query.

    URL is what `ingest --to` was given. The model is the one that the rows were embedded with.
    """
    flags = SearchFlags(**typed)
    for line in lines_of(find(flags), as_json=flags.json, width=width_of(sys.stdout)):
        click.echo(line)


def find(flags: SearchFlags) -> list[Hit]:
    """Raises `EmbedError`s, among them `ConfigError` if nothing is stored or the model is another one."""
    from gguf_embed.ingest.job.manifests import check_same_file, check_same_model
    from gguf_embed.ingest.pool.muvera_words import settings_of
    from gguf_embed.ingest.rows import PROBE_TEXTS
    from gguf_embed.ingest.sinks.open import open_sink

    if not flags.query.strip():
        raise ConfigError('the query is empty: write what to search for, such as "how do I reset my password"')
    sink = open_sink(flags.url)
    try:
        manifest = sink.manifest()
        if manifest is None:
            raise ConfigError(nothing_stored(sink, flags.url))
        kind = kind_to_compare(manifest, flags)
        muvera = settings_of(manifest.pooling)
        pool = open_pool(for_manifest(flags, manifest, muvera), (kind,), muvera)
        try:
            check_same_file(manifest, pool.facts, sink.name)
            check_same_model(manifest, pool.facts, pool.embed(PROBE_TEXTS).vectors, sink.name)
            embedded = pool.embed([flags.query])
        finally:
            pool.close()
        if embedded.failures:
            raise ConfigError(f"the query cannot be embedded: it {embedded.failures[0]}")
        return nearest(sink, kind, embedded, flags.top)
    finally:
        sink.close()


def kind_to_compare(manifest: Manifest, flags: SearchFlags) -> str:
    """Dense vectors if there are any, else multi-vectors, else sparse ones. Raises `ConfigError` for a server."""
    kind = next(kind for kind in (DENSE, MULTIVECTOR, SPARSE) if kind in manifest.vectors)
    if kind != DENSE and flags.endpoint:
        raise ConfigError(
            f"what is stored are {kind} vectors, which a model in this process makes for a query: leave out --endpoint"
        )
    return kind


def nearest(sink: Sink, kind: str, query: Embedded, n: int) -> list[Hit]:
    """`query`: one text, with vectors of the kind."""
    from gguf_embed.ingest.sinks.base import HasMultivectorSearch, HasSparseSearch
    from gguf_embed.ingest.sinks.row_vectors import matrices_in, weights_in

    if kind == SPARSE and isinstance(sink, HasSparseSearch):
        return sink.search_sparse(weights_in(query.columns[SPARSE])[0], n)
    if kind == MULTIVECTOR and isinstance(sink, HasMultivectorSearch):
        return sink.search_multivector(matrices_in(query.columns[MULTIVECTOR])[0], n)
    return sink.search(query.vectors[0], n)


def nothing_stored(sink: Sink, url: str) -> str:
    """With the tables that could be meant."""
    from gguf_embed.ingest.sinks.base import HasTables

    tables = sink.tables() if isinstance(sink, HasTables) else []
    if not tables:
        return f"nothing is stored in {sink.name}: fill it with gguf-embed ingest"
    *first, last = [name if len(name) <= MAX_NAME else f"{name[:MAX_NAME]}…" for name in tables[:MAX_TABLES]]
    shown = f"{', '.join(first)} and {last}" if first else last
    more = f", of {len(tables):,}" if len(tables) > MAX_TABLES else ""
    there = "the table there is" if len(tables) == 1 else "the tables there are"
    wanted = f"{url.partition('?')[0]}?table={tables[0]}"
    return f"nothing is stored in {sink.name}; {there} {shown}{more}: write {shlex.quote(wanted)}"


def for_manifest(flags: SearchFlags, manifest: Manifest, muvera: Muvera | None = None) -> SearchFlags:
    """With the model and the dimensions of what is stored, as far as the flags do not name others.

    `muvera`: the settings of what is stored. Raises `ConfigError` for a server then: it is not asked for such vectors.
    """
    if muvera is not None and flags.endpoint:
        raise ConfigError(
            "what is stored are MUVERA vectors, which a model in this process makes: leave out --endpoint"
        )
    model = flags.model or (None if flags.endpoint else manifest.extra.get("model_source") or None)
    return replace(
        flags,
        model=model,
        dimensions=flags.dimensions or (None if muvera else manifest.dimensions or None),
        pooling=flags.pooling or (None if flags.endpoint or muvera else manifest.pooling or None),
        input_type=flags.input_type or "query",
    )


def lines_of(hits: list[Hit], *, as_json: bool, width: int | None) -> list[str]:
    """For people: the score, the id and headings, then the beginning of the text. `width`: None off a terminal."""
    if as_json:
        return [
            json.dumps(
                {
                    "id": hit.id,
                    "score": hit.score,
                    "doc_id": hit.doc_id,
                    "headings": hit.headings,
                    "text": hit.text,
                    "metadata": json.loads(hit.metadata or "{}"),
                },
                ensure_ascii=False,
            )
            for hit in hits
        ]
    if not hits:
        return ["nothing was found"]
    lines = []
    for hit in hits:
        headings = f"  {hit.headings}" if hit.headings else ""
        head = f"{hit.score:.3f}  {hit.id}{headings}"
        lines.append(head if width is None or n_columns_of(head) <= width else shortened(head, width))
        text = " ".join(hit.text[: 2 * TEXT_CHARACTERS].split())
        columns = width or NO_TERMINAL_COLUMNS
        lines += textwrap.wrap(text[:TEXT_CHARACTERS], columns, initial_indent=INDENT, subsequent_indent=INDENT)[:3]
    return lines
