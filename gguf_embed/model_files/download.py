"""Fetch GGUF files from the Hugging Face hub, through the hub's own cache. The only importer of `huggingface_hub`.

The client resumes broken downloads and reads HF_TOKEN, HF_ENDPOINT, HF_HUB_CACHE and HF_HUB_OFFLINE itself.
It is imported on first use: it would cost every start 0.3 s.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from gguf_embed.errors import ModelFileError
from gguf_embed.model_files.naming import choose_model_file, split_parts


@dataclass(frozen=True, slots=True)
class Hub:
    """Which hub and which of its caches. None: what the environment says."""

    endpoint: str | None = None
    cache_dir: Path | None = None
    offline: bool = False  # never touch the network; HF_HUB_OFFLINE does the same


def fetch_model(hub: Hub, repo: str, quant: str | None, file: str | None, report: Callable[[str], None]) -> Path:
    """The local path of a repository's GGUF (the first part of a split one), downloaded if it is not in the cache.

    `file` names it; otherwise `quant` or llama.cpp's own preference chooses. Without a network, cached files serve.
    Raises `ModelFileError` with the way out: no such repository or file, gated, unreachable, disk full.
    """
    names, is_online = _list_files(hub, repo, report)
    chosen = file if file is not None else choose_model_file(names, quant)
    if chosen is None or chosen not in names:
        models = [name for name in names if name.endswith(".gguf")]
        wanted = file or (f"GGUF of type {quant}" if quant else "GGUF model")
        where = repo if is_online else f"the cached copy of {repo}"
        raise ModelFileError(
            f"{where} has no {wanted}" + (f"; choose one of: {', '.join(models[:30])}" if models else "")
        )
    parts = split_parts(chosen)
    paths = [_fetch_file(hub, repo, part, is_online, report) for part in parts]
    return paths[0]


def _list_files(hub: Hub, repo: str, report: Callable[[str], None]) -> tuple[list[str], bool]:
    """The repository's file names, and whether the hub itself gave them; else they are those in the cache."""
    from huggingface_hub import HfApi, constants

    cached = _cached_files(hub, repo)
    if hub.offline or constants.HF_HUB_OFFLINE:
        if not cached:
            raise ModelFileError(f"{repo} is not in the hub's cache, and offline mode forbids downloading it")
        return cached, False
    try:
        with _explained(repo):
            siblings = HfApi(endpoint=hub.endpoint).model_info(repo, timeout=15.0).siblings or []
            return sorted(sibling.rfilename for sibling in siblings), True
    except _HubUnreachable as exc:
        if not cached:
            raise
        report(f"{exc}; using the files that are cached")
        return cached, False


def _cached_files(hub: Hub, repo: str) -> list[str]:
    """Names of the repository's files in the hub's cache, of the revision that "main" last meant."""
    from huggingface_hub import constants

    root = Path(hub.cache_dir or constants.HF_HUB_CACHE) / ("models--" + repo.replace("/", "--"))
    try:
        revision = (root / "refs" / "main").read_text(encoding="utf-8").strip()
    except OSError:
        return []
    snapshot = root / "snapshots" / revision
    return sorted(path.relative_to(snapshot).as_posix() for path in snapshot.rglob("*.gguf") if path.is_file())


def _fetch_file(hub: Hub, repo: str, name: str, is_online: bool, report: Callable[[str], None]) -> Path:
    from huggingface_hub import hf_hub_download

    if is_online and name not in _cached_files(hub, repo):
        report(f"downloading {repo}/{name}")
    with _explained(repo, name):
        path = hf_hub_download(
            repo, name, endpoint=hub.endpoint, cache_dir=hub.cache_dir, local_files_only=not is_online
        )
    return Path(path)


class _HubUnreachable(ModelFileError):
    """No answer from the hub: what is cached may still serve."""


@contextmanager
def _explained(repo: str, name: str | None = None) -> Iterator[None]:
    """Turn whatever the hub's client raises into one `ModelFileError`.

    Its network errors belong to an HTTP library that changes between its versions, so the last case takes any.
    """
    try:
        yield
    except Exception as exc:
        raise _explain(exc, repo, name) from exc


def _explain(exc: BaseException, repo: str, name: str | None) -> ModelFileError:
    from huggingface_hub import errors

    where = f"{repo}/{name}" if name else repo
    if isinstance(exc, errors.LocalEntryNotFoundError):
        if isinstance(exc.__cause__, errors.HfHubHTTPError):
            return _explain(exc.__cause__, repo, name)
        return _HubUnreachable(f"{where} is not cached and the hub cannot be reached; check the network")
    if isinstance(exc, errors.GatedRepoError):
        return ModelFileError(f"{repo} is gated: accept its terms on its page on the hub and set HF_TOKEN")
    if isinstance(exc, errors.RepositoryNotFoundError):
        return ModelFileError(f"{repo} is not on the hub, or is private: check the name, or set HF_TOKEN")
    if isinstance(exc, errors.EntryNotFoundError):
        return ModelFileError(f"{repo} has no file {name}; check the name given with -hff")
    if isinstance(exc, errors.HFValidationError):
        return ModelFileError(f"{repo!r} is not a repository name; -hf takes ORG/REPO or ORG/REPO:QUANT")
    if isinstance(exc, errors.HfHubHTTPError):
        return _explain_status(exc.response.status_code, where)
    if isinstance(exc, OSError) and exc.errno == errno.ENOSPC:
        return ModelFileError(f"{where} cannot be downloaded: the disk is full; free some space or set HF_HUB_CACHE")
    if isinstance(exc, PermissionError):
        return ModelFileError(f"{where} cannot be stored: {exc}; set HF_HUB_CACHE to a folder you may write")
    return _HubUnreachable(f"the hub cannot be reached for {where} ({type(exc).__name__}: {exc}); check the network")


def _explain_status(status: int, where: str) -> ModelFileError:
    if status in (401, 403):
        return ModelFileError(f"the hub refused {where} ({status}): set HF_TOKEN to a token that may read it")
    if status == 404:
        return ModelFileError(f"{where} is not on the hub; check the name")
    if status == 429:
        return _HubUnreachable(f"the hub limits requests for {where} (429): wait, or set HF_TOKEN")
    return _HubUnreachable(f"the hub answered {status} for {where}; try again later")
