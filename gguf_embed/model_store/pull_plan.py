"""What a name to pull means: a GGUF of a repository, a model we convert, or the default one. Decisions only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath

from gguf_embed.errors import ModelNotFound, NotSupported
from gguf_embed.model_store.catalog import Catalog, CatalogRow
from gguf_embed.model_store.default_model import DEFAULT_NAME
from gguf_embed.model_store.names import FileChoice, is_quant, model_key, parse_model_name, quant_of, shown

_CONVERTED_TYPES = ("f32", "f16", "bf16", "q8_0")


@dataclass(frozen=True, slots=True)
class PullPlan:
    """Where a model comes from: one of `repo` and `convert` says it."""

    asked: str  # the name as it was given, in its comparable form
    choice: FileChoice
    repo: str | None = None  # holds the GGUF
    convert: str | None = None  # the original's repository
    is_default: bool = False  # the default model, which may be here without a hub
    row: CatalogRow | None = None


def plan_pull(text: str, catalog: Catalog) -> PullPlan:
    """Decide what to fetch; nothing is looked up but the catalog.

    Raises `InvalidRequest` for what is no name (a path, for one), `ModelNotFound` for an alias that nobody knows,
    `NotSupported` for a model that the catalog has but that cannot run yet.
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
        near = [known.name for known in catalog.rows if model_key(name.base) in model_key(known.name)][:5]
        raise ModelNotFound(
            f"no model is called {shown(text)}"
            + (f"; did you mean {', '.join(near)}?" if near else "")
            + " `gguf-embed list --catalog` shows all names, and ORG/REPO takes any GGUF from the hub"
        )
    if name.tag is not None and not is_quant(name.tag):
        raise ModelNotFound(
            f"{row.name} has no {shown(name.tag)}: give {row.name}, or {row.name}:QUANT with a type such as Q8_0"
        )
    return _plan_row(text, row, name.tag)


def _plan_row(text: str, row: CatalogRow, quant: str | None) -> PullPlan:
    if row.not_yet is not None:
        raise NotSupported(f"{row.name} cannot run yet: {row.not_yet}")
    asked = model_key(text)
    if row.repo is not None:
        is_default = row.name == DEFAULT_NAME and quant is None
        return PullPlan(asked, FileChoice(quant=quant, pattern=row.file), row.repo, is_default=is_default, row=row)
    if quant is not None and quant.lower() not in _CONVERTED_TYPES:
        raise NotSupported(
            f"{row.name} has no GGUF that we know, so it is converted, to F32, F16, BF16 or Q8_0, not to {quant}"
        )
    return PullPlan(asked, FileChoice(quant=quant), convert=row.convert, row=row)


def names_of_pulled(plan: PullPlan, file_name: str) -> tuple[str, tuple[str, ...]]:
    """Under which name and aliases a pulled file goes into the index.

    A name without quantization is that of the row, with all its aliases, or "org/repo:QUANT", as far as the file's
    name tells, with "org/repo". A named quantization makes a name of its own.
    """
    quant = plan.choice.quant
    found = quant or quant_of(PurePath(file_name).name)
    if plan.row is not None:
        if quant is not None:
            return f"{plan.row.name}:{quant}", tuple(
                f"{alias}:{quant}" for alias in plan.row.aliases if ":" not in alias
            )
        return plan.row.name, plan.row.aliases
    repo = plan.repo or ""
    if found is None:
        return repo, ()
    return f"{repo}:{found}", () if quant else (repo,)
