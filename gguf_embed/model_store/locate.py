"""Finds the model file on this machine that the user means, downloading or converting it if needed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from gguf_embed.errors import ConfigError, InvalidRequest, ModelFileError
from gguf_embed.gguf_file.header import read_header
from gguf_embed.model_store.catalog import load_catalog
from gguf_embed.model_store.default_model import DEFAULT_NAME, resolve_default
from gguf_embed.model_store.download import Hub, Listener, fetch_model
from gguf_embed.model_store.hub_errors import NotCached
from gguf_embed.model_store.names import model_stem, parse_model_name, parse_repo, quant_of, split_parts
from gguf_embed.model_store.places import expanded
from gguf_embed.model_store.pull import fetch_planned
from gguf_embed.model_store.pull_plan import names_of_pulled, plan_pull
from gguf_embed.model_store.similar import unknown_model
from gguf_embed.model_store.store import ModelStore


@dataclass(frozen=True, slots=True)
class ModelSource:
    """What the user named: a file (-m), a repository on the hub (-hf, -hff), or nothing for the default model.

    `path` and `hf_repo` may also be the name of a pulled model or a name from the catalog.
    """

    path: Path | None = None
    hf_repo: str | None = None  # "org/repo", "org/repo:QUANT" or a name from the catalog
    hf_file: str | None = None  # a file in hf_repo, instead of QUANT
    offline: bool = False  # use only what is on this machine


@dataclass(frozen=True, slots=True)
class LocatedModel:
    """A GGUF on this machine (the first part of a split one), and the name to serve it under."""

    path: Path
    name: str


def source_named(text: str, *, offline: bool = False) -> ModelSource:
    """What a name means: a file, a pulled model or one of the catalog, or a repository, "org/repo".

    What begins like a path, or with a folder that exists, is never a repository: a mistyped path must not start a
    download.
    """
    folder, slash, rest = text.partition("/")
    is_repo = bool(slash and folder and rest) and not text.startswith((".", "~")) and not text.lower().endswith(".gguf")
    if is_repo and not Path(folder).exists():
        return ModelSource(hf_repo=text, offline=offline)
    return ModelSource(path=Path(text), offline=offline)


def locate_here(text: str, cache_dir: Path, report: Callable[[str], None]) -> LocatedModel:
    """The same as `locate_model` for a name, without the network.

    Raises `ModelFileError` with the command that downloads it for a model that is not on this machine.
    """
    try:
        return locate_model(source_named(text, offline=True), cache_dir, report)
    except NotCached as exc:
        raise ModelFileError(f"{text} is not on this machine; `gguf-embed pull {text}` downloads it") from exc


def locate_model(
    source: ModelSource, cache_dir: Path, report: Callable[[str], None], *, hub: Hub | None = None
) -> LocatedModel:
    """Find, download or convert the model. All parts of a split model are checked.

    `cache_dir` is for files we convert; downloads go to the hub's own cache. The model's name is the file's stem,
    "org/repo:QUANT" (if the file's name has a quantization), "all-MiniLM-L6-v2", or the name that `ModelStore.pull`
    would give it. If a file and a model have the same name, the file is used. Raises `ModelFileError` if the model is
    not available, `ConfigError` if the source contradicts itself, `NotSupported` for a model of the catalog that
    cannot run yet.
    """
    hub = hub or Hub()
    hub = replace(hub, offline=hub.offline or source.offline)
    if source.path is not None:
        if source.hf_repo is not None or source.hf_file is not None:
            raise ConfigError("-m names a file and -hf/-hff one on the hub: give only one of them")
        return _locate_path(source.path, cache_dir, report, hub)
    if source.hf_repo is not None:
        return _locate_repo(source.hf_repo, source.hf_file, cache_dir, report, hub)
    if source.hf_file is not None:
        raise ConfigError("-hff names a file in a repository: give the repository with -hf ORG/REPO")
    return LocatedModel(resolve_default(cache_dir, report, hub=hub), DEFAULT_NAME)


def _locate_path(given: Path, cache_dir: Path, report: Callable[[str], None], hub: Hub) -> LocatedModel:
    path = expanded(given)
    if not path.exists():
        named = _by_name(str(given), cache_dir, report, hub)
        if named is not None:
            return named
        if path.name == str(given) and not path.suffix:
            unknown = unknown_model(str(given), _all_names(cache_dir))
            raise ModelFileError(f"there is no such file, and {unknown.message}")
    if path.is_dir():
        read_header(path)  # raises the error that fits
    path = _first_part(path, report)
    return LocatedModel(path, model_stem(path.name))


def _locate_repo(
    given: str, file: str | None, cache_dir: Path, report: Callable[[str], None], hub: Hub
) -> LocatedModel:
    if file is None:
        named = _by_name(given, cache_dir, report, hub)
        if named is not None:
            return named
    repo, quant = parse_repo(given)
    path = _first_part(fetch_model(hub, repo, quant, file, report), report)
    shown = quant or quant_of(path.name)
    return LocatedModel(path, f"{repo}:{shown}" if shown else repo)


def _by_name(text: str, cache_dir: Path, report: Callable[[str], None], hub: Hub) -> LocatedModel | None:
    """A pulled model, or one from the catalog, fetched now; None if neither has this name.

    Never a repository that is not in the catalog: a mistyped path must not start a download.
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


def _all_names(cache_dir: Path) -> list[str]:
    """The names of pulled models and those of the catalog."""
    pulled = ModelStore(cache_dir).models()
    return [*(name for model in pulled for name in (model.name, *model.aliases)), *load_catalog().names()]


def _first_part(path: Path, report: Callable[[str], None]) -> Path:
    """The file to load: `path` itself, or the first part of its split model if all parts are present and intact."""
    parts = [path.with_name(name) for name in split_parts(path.name)]
    if parts == [path]:
        if path.is_file():
            _check_whole(path)
        return path
    missing = [part.name for part in parts if not part.is_file()]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise ModelFileError(
            f"{path} is one of {len(parts)} parts; missing from its folder: {', '.join(missing[:3])}{more}; "
            "download all parts"
        )
    for part in parts:
        read_header(part)
    if path != parts[0]:
        report(f"{path.name} is a part of a split model; loading {parts[0].name}")
    return parts[0]


def _check_whole(path: Path) -> None:
    """Raises `ModelFileError` for a part of a split model that has lost its name, by which the others are found."""
    header = read_header(path)
    n_parts = header.get("split.count", int) or 1
    if n_parts > 1:
        number = (header.get("split.no", int) or 0) + 1
        raise ModelFileError(
            f"{path} is part {number} of {n_parts} of a split model, under another name: put all parts into one "
            f"folder, call this one NAME-{number:05}-of-{n_parts:05}.gguf again, and name the first"
        )
