"""From what the user named to a model file on this machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from gguf_embed.errors import ConfigError, InvalidRequest, ModelFileError
from gguf_embed.gguf_file.header import read_header
from gguf_embed.model_store.catalog import load_catalog
from gguf_embed.model_store.default_model import DEFAULT_NAME, resolve_default
from gguf_embed.model_store.download import Hub, Listener, fetch_model
from gguf_embed.model_store.names import model_stem, parse_model_name, parse_repo, quant_of, split_parts
from gguf_embed.model_store.pull import fetch_planned
from gguf_embed.model_store.pull_plan import names_of_pulled, plan_pull
from gguf_embed.model_store.store import ModelStore


@dataclass(frozen=True, slots=True)
class ModelSource:
    """What the user named: a file (-m), a repository on the hub (-hf, -hff), or nothing: the default model.

    Instead of a file or a repository, a name: of a pulled model or of the catalog.
    """

    path: Path | None = None
    hf_repo: str | None = None  # "org/repo", "org/repo:QUANT" or a name of the catalog
    hf_file: str | None = None  # a file in hf_repo, instead of QUANT
    offline: bool = False  # use only what is on this machine


@dataclass(frozen=True, slots=True)
class LocatedModel:
    """A GGUF that is here (the first part of a split one), and the name to serve it under."""

    path: Path
    name: str


def locate_model(
    source: ModelSource, cache_dir: Path, report: Callable[[str], None], *, hub: Hub | None = None
) -> LocatedModel:
    """Find, download or convert the model; the parts of a split one are all checked.

    `cache_dir` is for files we convert; downloads go to the hub's own cache. Names: the file's stem, "org/repo:QUANT"
    (as far as the file's name tells), "all-MiniLM-L6-v2", or what `ModelStore.pull` would enter it under. A file beats
    a name. Raises `ModelFileError` when it cannot be had, `ConfigError` when the source contradicts itself,
    `NotSupported` for a model that the catalog knows but that cannot run.
    """
    hub = hub or Hub()
    hub = replace(hub, offline=hub.offline or source.offline)
    if source.path is not None:
        if source.hf_repo is not None or source.hf_file is not None:
            raise ConfigError("-m names a file and -hf/-hff one on the hub: give only one of them")
        path = source.path.expanduser()
        named = None if path.exists() else _by_name(str(source.path), cache_dir, report, hub)
        if named is not None:
            return named
        path = _first_part(path, report)
        return LocatedModel(path, model_stem(path.name))
    if source.hf_repo is not None:
        named = None if source.hf_file is not None else _by_name(source.hf_repo, cache_dir, report, hub)
        if named is not None:
            return named
        repo, quant = parse_repo(source.hf_repo)
        path = _first_part(fetch_model(hub, repo, quant, source.hf_file, report), report)
        shown = quant or quant_of(path.name)
        return LocatedModel(path, f"{repo}:{shown}" if shown else repo)
    if source.hf_file is not None:
        raise ConfigError("-hff names a file of a repository: give the repository with -hf ORG/REPO")
    return LocatedModel(resolve_default(cache_dir, report, hub=hub), DEFAULT_NAME)


def _by_name(text: str, cache_dir: Path, report: Callable[[str], None], hub: Hub) -> LocatedModel | None:
    """A pulled model, or one of the catalog, fetched now; None when neither has this name.

    Repositories are none of its business: a mistyped path must not become a download.
    """
    try:
        name = parse_model_name(text)
    except InvalidRequest:
        return None
    pulled = ModelStore(cache_dir).find(text)
    if pulled is not None:
        return LocatedModel(_first_part(pulled.path, report), pulled.name)
    catalog = load_catalog()
    if name.is_repo or (catalog.find(text) or catalog.find(name.base)) is None:
        return None
    plan = plan_pull(text, catalog)
    path = fetch_planned(plan, cache_dir, hub, Listener(report, show_bar=True))[0].path
    return LocatedModel(_first_part(path, report), names_of_pulled(plan, path.name)[0])


def _first_part(path: Path, report: Callable[[str], None]) -> Path:
    """The file to load: `path` itself, or the first part of its split model when every part is there and whole."""
    parts = [path.with_name(name) for name in split_parts(path.name)]
    if parts == [path]:
        return path
    missing = [part.name for part in parts if not part.is_file()]
    if missing:
        raise ModelFileError(
            f"{path}: is one of {len(parts)} parts, and {', '.join(missing[:3])}"
            + (f" and {len(missing) - 3} more are" if len(missing) > 3 else " is" if len(missing) == 1 else " are")
            + " missing beside it; download all parts"
        )
    for part in parts:
        read_header(part)
    if path != parts[0]:
        report(f"{path.name} is a part of a split model; loading {parts[0].name}")
    return parts[0]
