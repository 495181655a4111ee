"""`gguf-embed list`: lists the models on this machine, or those in the catalog."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gguf_embed.cli.catalog_table import catalog_json, catalog_lines, chosen_rows, has_words
from gguf_embed.cli.command import Command
from gguf_embed.cli.flag_types import FolderPath, MemorySize
from gguf_embed.cli.table import Column, print_table, table_lines
from gguf_embed.cli.terminal import dim, duration_text, width_of
from gguf_embed.errors import ConfigError, ModelFileError
from gguf_embed.gguf_file.facts import context_length, file_type_name
from gguf_embed.gguf_file.towers import read_model
from gguf_embed.model_store.catalog import CatalogRow, load_catalog
from gguf_embed.model_store.default_model import DEFAULT_NAME, cache_dir, default_on_this_machine
from gguf_embed.model_store.names import model_key
from gguf_embed.model_store.partial_file import human_size

if TYPE_CHECKING:
    from gguf_embed.model_store.store import StoredModel

EXAMPLES = """\b
gguf-embed list
gguf-embed list --catalog rerank german --max-size 500M
"""

MODELS_DIR = click.option(
    "--models-dir",
    type=FolderPath(),
    metavar="DIR",
    envvar="LLAMA_ARG_MODELS_DIR",
    show_envvar=True,
    help="Include the GGUF files in this folder.",
)

_COLUMNS = (
    Column("NAME", shrinks_to=36, folds=True),
    Column("ARCHITECTURE", leaves=4),
    Column("TYPE", leaves=1),
    Column("DIMS", right=True),
    Column("CONTEXT", right=True),
    Column("SIZE", right=True),
    Column("MODIFIED", leaves=3),
    Column("ORIGIN", leaves=2),
)


@dataclass(frozen=True, slots=True)
class ListedModel:
    """One row of the list."""

    name: str
    aliases: tuple[str, ...]
    architecture: str  # "unreadable" if the file's header cannot be read
    type: str
    dimensions: int
    context: int
    size_bytes: int
    modified_unix_s: float | None  # None for the built-in model
    origin: str
    repo: str | None
    digest: str | None
    path: str | None  # None if the file is made when the model is first used


@click.command("list", cls=Command, context_settings={"auto_envvar_prefix": None}, epilog=EXAMPLES)
@click.argument("words", nargs=-1, metavar="[WORD]...")
@click.option("--catalog", is_flag=True, help="List the models that `pull` knows by name instead.")
@click.option("--max-size", type=MemorySize(base=1000), help="List only models whose file is not larger, such as 500M.")
@MODELS_DIR
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
def list_models(
    words: tuple[str, ...], catalog: bool, max_size: int | None, models_dir: Path | None, as_json: bool
) -> None:
    """List the models on this machine, or those that can be pulled.

    On this machine are the pulled models, the built-in one, and with --models-dir the GGUF files in that folder. Each
    WORD must occur in a model's name, aliases, kind, languages, architecture or license. In the
    catalog, a language (german, or de) chooses the multilingual models, too.
    """
    if catalog:
        _print_catalog(words, max_size, as_json=as_json)
    else:
        _print_models(_on_this_machine(models_dir), words, max_size, as_json=as_json)


def _print_catalog(words: Sequence[str], max_bytes: int | None, *, as_json: bool) -> None:
    rows = chosen_rows(load_catalog().rows, words, max_bytes)
    if not rows and not as_json:
        raise ConfigError(f"no model in the catalog has {_filter_text(words, max_bytes)}: {_way_out(words, max_bytes)}")
    width = width_of(sys.stdout)
    if as_json:
        click.echo(catalog_json(rows))
        return
    print_table(catalog_lines(rows, width))
    if width is not None:
        click.echo(dim("gguf-embed show MODEL: all about one; gguf-embed pull MODEL: get it", sys.stdout))


def _print_models(models: Sequence[ListedModel], words: Sequence[str], max_bytes: int | None, *, as_json: bool) -> None:
    chosen = [model for model in models if _is_chosen(model, words, max_bytes)]
    if as_json:
        click.echo(json.dumps([asdict(model) for model in chosen], indent=1))
        return
    if models and not chosen:
        raise ConfigError(
            f"no model on this machine has {_filter_text(words, max_bytes)}: {_way_out(words, max_bytes)}, or "
            "--catalog for those that can be pulled"
        )
    width = width_of(sys.stdout)
    if chosen:
        print_table(model_lines(chosen, time.time(), width))
    if not models or (width is not None and all(model.origin == "built-in" for model in models)):
        none_yet = "no models pulled yet: `gguf-embed list --catalog` lists the names that `gguf-embed pull` knows"
        click.echo(dim(none_yet, sys.stdout))


def _filter_text(words: Sequence[str], max_bytes: int | None) -> str:
    limit = [] if max_bytes is None else [f"at most {human_size(max_bytes)}"]
    return " and ".join([*map(repr, words), *limit])


def _way_out(words: Sequence[str], max_bytes: int | None) -> str:
    """What to change about a filter that nothing passes."""
    fewer = [] if not words else ["another word" if len(words) == 1 else "fewer words"]
    larger = [] if max_bytes is None else ["a larger --max-size"]
    return f"use {' or '.join([*larger, *fewer])}"


def _is_chosen(model: ListedModel, words: Sequence[str], max_bytes: int | None) -> bool:
    text = " ".join((model.name, *model.aliases, model.architecture, model.type, model.origin, model.repo or ""))
    return has_words(text, words) and (max_bytes is None or model.size_bytes <= max_bytes)


def _on_this_machine(models_dir: Path | None) -> list[ListedModel]:
    from gguf_embed.model_store.store import ModelStore

    cache = cache_dir(os.environ)
    models = [listed(entry) for entry in ModelStore(cache, models_dir).models()]
    default, row = default_on_this_machine(cache), load_catalog().find(DEFAULT_NAME)
    is_listed = any(model_key(model.name) == model_key(DEFAULT_NAME) for model in models)
    if default is None or row is None or is_listed:
        return models
    return [*models, built_in(row, default.cached)]


def listed(entry: StoredModel) -> ListedModel:
    """The list's row for a stored model, with facts from the file's header."""
    architecture, kind, dimensions, context = _header_facts(entry.path)
    return ListedModel(
        name=entry.name,
        aliases=entry.aliases,
        architecture=architecture,
        type=kind,
        dimensions=dimensions,
        context=context,
        size_bytes=entry.size_bytes,
        modified_unix_s=entry.modified_unix_s,
        origin=entry.origin,
        repo=entry.repo,
        digest=entry.digest,
        path=str(entry.path),
    )


def _header_facts(path: Path) -> tuple[str, str, int, int]:
    """Architecture, type, dimensions and context; "unreadable" if the file is none that can be read."""
    try:
        header = read_model(path)
    except ModelFileError:
        return "unreadable", "", 0, 0
    architecture = header.architecture
    dimensions = header.get(f"{architecture}.embedding_length", int) or 0
    return architecture, file_type_name(header), dimensions, context_length(header) or 0


def built_in(row: CatalogRow, cached: Path | None) -> ListedModel:
    """The row of the default model. `cached`: its file, if it was used before."""
    return ListedModel(
        name=row.name,
        aliases=row.aliases,
        architecture=row.architecture,
        type=row.weight_type,
        dimensions=row.dimensions,
        context=row.context,
        size_bytes=cached.stat().st_size if cached is not None else row.size_bytes or 0,
        modified_unix_s=None,
        origin="built-in",
        repo=None,
        digest=None,
        path=str(cached) if cached is not None else None,
    )


def model_lines(models: Sequence[ListedModel], now_unix_s: float, width: int | None = None) -> list[str]:
    """`width`: columns of the terminal; None: everything."""
    rows = [
        (
            model.name,
            model.architecture,
            model.type or "-",
            str(model.dimensions or "-"),
            str(model.context or "-"),
            human_size(model.size_bytes),
            "-" if model.modified_unix_s is None else age_text(now_unix_s - model.modified_unix_s),
            model.origin,
        )
        for model in models
    ]
    return table_lines(_COLUMNS, rows, width)


def age_text(seconds: float) -> str:
    """ "now", "3 min ago", "12 days ago"."""
    if seconds < 10:
        return "now"
    if seconds < 86_400:
        return f"{duration_text(seconds)} ago"
    days = round(seconds / 86_400)
    return "1 day ago" if days == 1 else f"{days} days ago"
