"""`gguf-embed show`: describes one model, from its file and the catalog."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gguf_embed.cli.catalog_table import row_fields, size_text, source_label
from gguf_embed.cli.command import Command
from gguf_embed.cli.list_models import MODELS_DIR
from gguf_embed.cli.model_flags import MODEL_NAME
from gguf_embed.cli.table import fact_lines
from gguf_embed.cli.terminal import width_of
from gguf_embed.errors import ModelNotFound
from gguf_embed.gguf_file import towers
from gguf_embed.gguf_file.facts import (
    context_length,
    file_type_name,
    has_rank_head,
    n_parameters,
    pooling_type,
    vector_width,
    vocabulary_size,
)
from gguf_embed.gguf_file.header import GgufHeader
from gguf_embed.gguf_file.towers import read_model
from gguf_embed.model_pool.file_problems import problem_line, problems_of
from gguf_embed.model_pool.model_info import head_outputs
from gguf_embed.model_store.catalog import Catalog, CatalogRow, load_catalog
from gguf_embed.model_store.default_model import DEFAULT_NAME, cache_dir, default_on_this_machine
from gguf_embed.model_store.locate import source_named
from gguf_embed.model_store.partial_file import human_size
from gguf_embed.model_store.places import expanded
from gguf_embed.model_store.similar import unknown_model
from gguf_embed.preprocessing.prompt_prefixes import profile, prompts_of_header
from gguf_embed.types import FileProblem, OutputSpec, Pooling

if TYPE_CHECKING:
    from gguf_embed.model_pool.computed_by import ComputedBy
    from gguf_embed.model_store.store import StoredModel


EXAMPLES = """\b
gguf-embed show all-minilm
gguf-embed show models/bge-small-en-v1.5.gguf
"""


@dataclass(frozen=True, slots=True)
class ShownModel:
    """What is known about a model. At least one of `header` and `row` is set."""

    name: str
    entry: StoredModel | None  # None: neither pulled nor in --models-dir
    header: GgufHeader | None  # None: no file on this machine
    row: CatalogRow | None  # None: not in the catalog
    is_built_in: bool = False  # it comes with the installation


@click.command(cls=Command, context_settings={"auto_envvar_prefix": None}, epilog=EXAMPLES)
@click.argument("name", type=MODEL_NAME, metavar="MODEL")
@MODELS_DIR
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
def show(name: str, models_dir: Path | None, as_json: bool) -> None:
    """Describe a model: its file, prompts and limits.

    MODEL is a GGUF file, or a name from `list` or `list --catalog`.
    """
    model = find_model(name, cache_dir(os.environ), models_dir, load_catalog())
    if as_json:
        click.echo(json.dumps(as_fields(model), indent=1, ensure_ascii=False))
    else:
        click.echo("\n".join(lines(model, width_of(sys.stdout))))


def find_model(name: str, cache: Path, models_dir: Path | None, catalog: Catalog) -> ShownModel:
    """Looks for a file on this machine first, then in the catalog. Raises `ModelNotFound`, `ModelFileError`."""
    from gguf_embed.model_store.store import ModelStore

    store = ModelStore(cache, models_dir)
    entry = store.find(name)
    if entry is not None:
        return _of_file(entry.name, entry.path, entry, catalog)
    path = expanded(Path(name))
    row = None if path.exists() else _row_of(name, catalog)
    if row is not None:
        return _of_row(row, cache, catalog)
    if path.exists() or name.lower().endswith(".gguf") or name.startswith(("/", ".", "~")):
        return _of_file(str(path), path, None, catalog)
    if source_named(name).hf_repo is not None:
        raise ModelNotFound(f"{name} is not on this machine; `gguf-embed pull {name}` downloads it")
    here = [other for model in store.models() for other in (model.name, *model.aliases)]
    raise unknown_model(name, [*here, *catalog.names()])


def _row_of(name: str, catalog: Catalog) -> CatalogRow | None:
    """The row with this name, alias or repository; a quantization after it does not matter."""
    base = name.partition(":")[0]
    return catalog.find(name) or catalog.find(base) or catalog.find_repo(base)


def _of_file(name: str, path: Path, entry: StoredModel | None, catalog: Catalog) -> ShownModel:
    header = read_model(path)
    repo = entry.repo if entry is not None else None
    return ShownModel(name, entry, header, catalog.for_file(header.get("general.name", str), path.stem, repo))


def _of_row(row: CatalogRow, cache: Path, catalog: Catalog) -> ShownModel:
    """A model of the catalog that was not pulled; the built-in one has a file once it was used."""
    default = default_on_this_machine(cache) if row.name == DEFAULT_NAME else None
    if default is None:
        return ShownModel(row.name, None, None, row)
    if default.cached is None:
        return ShownModel(row.name, None, None, row, is_built_in=True)
    return replace(_of_file(row.name, default.cached, None, catalog), is_built_in=True)


def lines(model: ShownModel, width: int | None) -> list[str]:
    """`width`: columns of the terminal; None: long values stay on their line."""
    fields = _file_facts(model.header, model.row) if model.header is not None else []
    prompts = [("prompt", f"{name}: {text!r}") for name, text in _prompts(model).items()]
    pairs = [("name", model.name), *_source_facts(model), *fields, *_row_facts(model), *prompts]
    return [*fact_lines(pairs, width), *(problem_line(model.name, problem) for problem in _problems(model))]


def _problems(model: ShownModel) -> tuple[FileProblem, ...]:
    """What the doctor finds serious in the file's metadata and vocabulary."""
    header, row = model.header, model.row
    if header is None:
        return ()
    pooling = row.pooling if row is not None and pooling_type(header) is None else None
    return problems_of(header, row, pooling, reads_vocabulary=True)


def _source_facts(model: ShownModel) -> list[tuple[str, str]]:
    """Where the model is, or where it can be pulled from."""
    entry, row = model.entry, model.row
    if entry is not None:
        return [
            ("aliases", ", ".join(entry.aliases)),
            ("file", str(entry.path)),
            ("size", human_size(entry.size_bytes)),
            ("origin", f"{entry.origin}, {entry.repo}" if entry.repo else entry.origin),
            ("digest", f"sha256:{entry.digest}"),
        ]
    aliases = [("aliases", ", ".join(row.aliases if row is not None else ()))] if model.is_built_in else []
    origin = [("origin", "built-in")] if model.is_built_in else []
    if model.header is not None:
        return [
            *aliases,
            ("file", str(model.header.path)),
            ("size", human_size(model.header.size_bytes)),
            *origin,
        ]
    if row is None:
        return []
    return [("aliases", ", ".join(row.aliases)), ("status", _status(row, model.is_built_in)), ("size", size_text(row))]


def _status(row: CatalogRow, is_built_in: bool) -> str:
    """Why there is no file."""
    if is_built_in:
        return "built-in: converted from its package when it is first used"
    source = source_label(row)
    if row.not_yet:
        return source
    comes = "makes it here" if row.language is not None else f"downloads it from {source}"
    return f"not pulled: `gguf-embed pull {row.name}` {comes}"


def _file_facts(header: GgufHeader, row: CatalogRow | None) -> list[tuple[str, str]]:
    own = pooling_type(header)
    from_row = f"{row.pooling} (from the catalog; the file declares none)" if row is not None and row.pooling else ""
    n_params = n_parameters(header)
    return [
        ("architecture", header.architecture),
        ("weights", file_type_name(header)),
        ("engine", _engine(header, own or (row.pooling if row is not None else None))),
        ("last load", str(_last_load(header) or "")),
        ("check", _check(header, None if own else row.pooling if row is not None else None)),
        ("parameters", f"{n_params:,}" if n_params else ""),
        ("dimensions", str(vector_width(header) or "")),
        ("context", str(context_length(header) or "")),
        ("vocabulary", f"{vocabulary_size(header):,}" if vocabulary_size(header) else ""),
        ("pooling", str(own) if own is not None else from_row),
        ("images", "yes" if header.get(towers.HAS_IMAGES, bool) else ""),
        ("rank head", "yes" if has_rank_head(header) else ""),
        ("heads", ", ".join(head_outputs(header))),
        ("license", header.get("general.license", str) or (row.license if row is not None else "")),
    ]


def _engine(header: GgufHeader, pooling: Pooling | None) -> str:
    """The engine that `serve` runs the file in without further flags."""
    from gguf_embed.config import ModelConfig
    from gguf_embed.engines.choice import engine_in_words

    return engine_in_words(header, ModelConfig(), OutputSpec.of(pooling or Pooling.NONE), cache_dir(os.environ))


def _last_load(header: GgufHeader) -> ComputedBy | None:
    """What computed the file when it was last loaded, with whichever flags."""
    from gguf_embed.model_pool.computed_by import last_load

    return last_load(header.path, cache_dir(os.environ))


def _check(header: GgufHeader, pooling: Pooling | None) -> str:
    """Whether the file was tried before it was served without further flags."""
    from gguf_embed.config import ModelConfig
    from gguf_embed.model_pool.trial import verdict_in_words
    from gguf_embed.model_pool.trial_child import TrialJob

    job = TrialJob(header.path, header.path.stem, ModelConfig(pooling=pooling), cache_dir(os.environ))
    return verdict_in_words(job)


def _row_facts(model: ShownModel) -> list[tuple[str, str]]:
    row = model.row
    if row is None:
        return []
    only_row = [
        ("architecture", row.architecture),
        ("dimensions", str(row.dimensions or "")),
        ("context", str(row.context or "")),
        ("pooling", str(row.pooling or "")),
        ("license", row.license),
    ]
    return [
        *(only_row if model.header is None else []),
        ("kind", row.kind),
        ("languages", ", ".join(row.languages)),
        ("matryoshka", ", ".join(map(str, row.matryoshka))),
        ("note", row.note),
        ("source", row.source),
    ]


def _prompts(model: ShownModel) -> dict[str, str]:
    own = prompts_of_header(model.header) if model.header is not None else {}
    return profile({}, own, model.row.prompts if model.row is not None else {})


def as_fields(model: ShownModel) -> dict[str, object]:
    """The fields for JSON; null for unknown values."""
    header, entry = model.header, model.entry
    own = pooling_type(header) if header is not None else None
    pooling = own or (model.row.pooling if model.row is not None else None)
    return {
        "name": model.name,
        "aliases": list(entry.aliases) if entry is not None else [],
        "path": str(header.path) if header is not None else None,
        "size_bytes": entry.size_bytes if entry is not None else header.size_bytes if header is not None else None,
        "digest": entry.digest if entry is not None else None,
        "origin": entry.origin if entry is not None else "built-in" if model.is_built_in else None,
        "repo": entry.repo if entry is not None else None,
        "pooling": str(pooling) if pooling is not None else None,
        "prompts": _prompts(model),
        "problems": [asdict(problem) for problem in _problems(model)],
        "engine": _engine(header, pooling) if header is not None else None,
        "last_load": _last_load_fields(header) if header is not None else None,
        "file": _header_fields(header) if header is not None else None,
        "catalog": row_fields(model.row) if model.row is not None else None,
    }


def _last_load_fields(header: GgufHeader) -> dict[str, object] | None:
    """With the engine's name, its precision, its kernels, and how many workers it had."""
    last = _last_load(header)
    return asdict(last) if last is not None else None


def _header_fields(header: GgufHeader) -> dict[str, object]:
    return {
        "architecture": header.architecture,
        "type": file_type_name(header),
        "parameters": n_parameters(header),
        "dimensions": header.get(f"{header.architecture}.embedding_length", int),
        "context": context_length(header),
        "vocabulary": vocabulary_size(header),
        "rank_head": has_rank_head(header),
        "head_outputs": list(head_outputs(header)),
        "license": header.get("general.license", str),
    }
