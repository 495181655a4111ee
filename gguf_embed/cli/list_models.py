"""`gguf-embed list`: lists the models on this machine, or those in the catalog."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gguf_embed.cli.progress import duration_text
from gguf_embed.cli.table import lines_of
from gguf_embed.errors import ModelFileError
from gguf_embed.gguf_file.facts import context_length, file_type_name
from gguf_embed.gguf_file.towers import read_model
from gguf_embed.model_store.catalog import CatalogRow, load_catalog
from gguf_embed.model_store.default_model import cache_dir
from gguf_embed.model_store.partial_file import human_size

if TYPE_CHECKING:
    from gguf_embed.model_store.store import StoredModel

MODELS_DIR = click.option(
    "--models-dir",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    metavar="DIR",
    envvar="LLAMA_ARG_MODELS_DIR",
    show_envvar=True,
    help="Include the GGUF files in this folder.",
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
    modified_unix_s: float
    origin: str
    repo: str | None
    digest: str
    path: str


@click.command("list", context_settings={"auto_envvar_prefix": None})
@MODELS_DIR
@click.option("--catalog", is_flag=True, help="List the models that `pull` knows by name instead.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
def list_models(models_dir: Path | None, catalog: bool, as_json: bool) -> None:
    """List the models on this machine.

    These are the pulled models and, with --models-dir, the GGUF files in that folder.
    """
    if catalog:
        rows = load_catalog().rows
        click.echo(catalog_json(rows) if as_json else "\n".join(catalog_lines(rows)))
        return
    from gguf_embed.model_store.store import ModelStore

    models = [listed(entry) for entry in ModelStore(cache_dir(os.environ), models_dir).models()]
    if as_json:
        click.echo(json.dumps([asdict(model) for model in models], indent=1))
    elif models:
        click.echo("\n".join(model_lines(models, time.time())))
    else:
        click.echo("no models pulled yet: `gguf-embed list --catalog` lists the names that `gguf-embed pull` knows")


def listed(entry: StoredModel) -> ListedModel:
    """The list's row for a stored model, with facts from the file's header."""
    try:
        header = read_model(entry.path)
        architecture, kind = header.architecture, file_type_name(header)
        dimensions = header.get(f"{architecture}.embedding_length", int) or 0
        context = context_length(header) or 0
    except ModelFileError:
        architecture, kind, dimensions, context = "unreadable", "", 0, 0
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


def model_lines(models: Sequence[ListedModel], now_unix_s: float) -> list[str]:
    header = ("NAME", "ARCHITECTURE", "TYPE", "DIMS", "CONTEXT", "SIZE", "MODIFIED", "ORIGIN")
    rows = [
        (
            model.name,
            model.architecture,
            model.type or "-",
            str(model.dimensions or "-"),
            str(model.context or "-"),
            human_size(model.size_bytes),
            age_text(now_unix_s - model.modified_unix_s),
            model.origin,
        )
        for model in models
    ]
    return lines_of(header, rows)


def age_text(seconds: float) -> str:
    """ "now", "3 min ago", "12 days ago"."""
    if seconds < 10:
        return "now"
    if seconds < 86_400:
        return f"{duration_text(seconds)} ago"
    days = round(seconds / 86_400)
    return "1 day ago" if days == 1 else f"{days} days ago"


def catalog_lines(rows: Sequence[CatalogRow]) -> list[str]:
    header = ("NAME", "KIND", "DIMS", "CONTEXT", "LICENSE", "FROM")
    return lines_of(
        header,
        [
            (row.name, row.kind, str(row.dimensions), str(row.context or "-"), row.license or "-", source_label(row))
            for row in rows
        ],
    )


def source_label(row: CatalogRow) -> str:
    """The repository that a model comes from, or why it cannot be used yet."""
    if row.not_yet is not None:
        return f"not yet: {row.not_yet}"
    if row.language is not None:
        return "made here"
    return row.repo or f"{row.convert}, converted"


def catalog_json(rows: Sequence[CatalogRow]) -> str:
    return json.dumps([row_fields(row) for row in rows], indent=1, ensure_ascii=False)


def row_fields(row: CatalogRow) -> dict[str, object]:
    """The fields of a row for JSON."""
    fields = {name: getattr(row, name) for name in CatalogRow.__dataclass_fields__}
    return fields | {"prompts": dict(row.prompts)}
