"""Decides what pulling a name means: a repository's GGUF, a model to convert or make, or the default model. No I/O."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath

from gguf_embed.errors import ModelNotFound, NotSupported
from gguf_embed.model_store.catalog import Catalog, CatalogRow
from gguf_embed.model_store.default_model import DEFAULT_NAME
from gguf_embed.model_store.names import FileChoice, is_quant, model_key, parse_model_name, quant_of, shown
from gguf_embed.model_store.similar import unknown_model

_CONVERTED_TYPES = ("f32", "f16", "bf16", "q8_0")


@dataclass(frozen=True, slots=True)
class PullPlan:
    """Where a model comes from: one of `repo`, `convert` and `language` is set."""

    asked: str  # the given name in comparable form
    choice: FileChoice
    repo: str | None = None  # holds the GGUF
    convert: str | None = None  # the original's repository
    language: str | None = None  # of BM25, which is made here
    is_default: bool = False  # the default model, which may be available without the hub
    row: CatalogRow | None = None


def plan_pull(text: str, catalog: Catalog) -> PullPlan:
    """Decide what to fetch, from the catalog alone.

    Raises `InvalidRequest` for anything that is not a model name (such as a path), `ModelNotFound` for an unknown
    alias, `NotSupported` for a model of the catalog that cannot run yet.
    """
    name = parse_model_name(text)
    if name.is_repo:
        row = catalog.find_repo(name.base)
        if row is not None and row.convert is not None and row.convert.lower() == name.base.lower():
            return _plan_row(text, row, name.tag)
        return PullPlan(model_key(text), FileChoice(quant=name.tag), repo=name.base)
    if (row := catalog.find(text)) is not None:
        return _plan_row(text, row, None)
    row = catalog.find(name.base)
    if row is None:
        raise unknown_model(text, catalog.names())
    if name.tag is not None and not is_quant(name.tag):
        raise ModelNotFound(
            f"{row.name} has no tag {shown(name.tag)}: give {row.name}, or {row.name}:QUANT with a type such as Q8_0"
        )
    return _plan_row(text, row, name.tag)


def _plan_row(text: str, row: CatalogRow, quant: str | None) -> PullPlan:
    if row.not_yet is not None:
        raise NotSupported(f"{row.name} cannot run yet: {row.not_yet}")
    asked = model_key(text)
    if row.language is not None:
        if quant is not None:
            raise NotSupported(f"{row.name} has no weights to quantize: give {row.name} without {quant}")
        return PullPlan(asked, FileChoice(), language=row.language, row=row)
    if row.repo is not None:
        is_default = row.name == DEFAULT_NAME and quant is None
        return PullPlan(asked, FileChoice(quant=quant, pattern=row.file), row.repo, is_default=is_default, row=row)
    if quant is not None and quant.lower() not in _CONVERTED_TYPES:
        raise NotSupported(
            f"{row.name} has no known GGUF, so it is converted; only to F32, F16, BF16 or Q8_0, not to {quant}"
        )
    return PullPlan(asked, FileChoice(quant=quant), convert=row.convert, row=row)


def names_of_pulled(plan: PullPlan, file_name: str) -> tuple[str, tuple[str, ...]]:
    """The name and the aliases under which a pulled file is registered.

    Without a named quantization: the name of the row with all its aliases, or "org/repo:QUANT" (if the file's name has
    a quantization) with the alias "org/repo". With one: a separate name that includes it.
    """
    quant = plan.choice.quant
    found = quant or quant_of(PurePath(file_name).name)
    if plan.row is not None:
        if quant is not None:
            aliases = tuple(f"{alias}:{quant}" for alias in plan.row.aliases if ":" not in alias)
            return f"{plan.row.name}:{quant}", aliases
        return plan.row.name, plan.row.aliases
    repo = plan.repo or ""
    if found is None:
        return repo, ()
    return f"{repo}:{found}", () if quant else (repo,)
