"""Fetch files from the Hugging Face hub into the hub's own cache. The only importer of `huggingface_hub`.

The client reads HF_TOKEN, HF_ENDPOINT, HF_HUB_CACHE and HF_HUB_OFFLINE itself. It is imported on first use: it would
cost every start 0.3 s. It throws away what came when a download breaks off, so we stream into a partial file in its
cache, check it, give it the name that the client looks for, and let the client enter it in its index.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

from gguf_embed.errors import EmbedError, ModelFileError
from gguf_embed.model_store.names import FileChoice, choose_file, source_files, split_parts
from gguf_embed.model_store.partial_file import (
    CountedFile,
    Stopped,
    check_content,
    check_room,
    human_size,
    is_sha256,
    sha256_of,
)
from gguf_embed.types import PullProgress

if TYPE_CHECKING:
    from huggingface_hub.file_download import HfFileMetadata

_ETAG = re.compile(r"[\w.-]{1,128}")
_MAX_STREAMED_BYTES = 50 * 10**9  # the hub gives larger files only through its client, which cannot resume them
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True, slots=True)
class Hub:
    """Which hub and which of its caches. None: what the environment says."""

    endpoint: str | None = None
    cache_dir: Path | None = None
    offline: bool = False  # never touch the network; HF_HUB_OFFLINE does the same


@dataclass(frozen=True, slots=True)
class FetchedFile:
    """One file that is now in the hub's cache."""

    path: Path
    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Listener:
    """Who is told of a download: lines for people, or steps for a progress bar.

    What `progress` raises ends the download and comes out unchanged; what has come stays for the next try.
    """

    say: Callable[[str], None]
    progress: Callable[[PullProgress], None] = lambda step: None
    show_bar: bool = False  # the hub client's own bar


def fetch_model(hub: Hub, repo: str, quant: str | None, file: str | None, report: Callable[[str], None]) -> Path:
    """The local path of a repository's GGUF (the first part of a split one), downloaded if it is not in the cache.

    `file` names it; otherwise `quant` or llama.cpp's own preference chooses. Without a network, cached files serve.
    Raises `ModelFileError` with the way out: no such repository or file, gated, unreachable, disk full, damaged.
    """
    choice = FileChoice(quant=quant, file=file)
    return fetch_files(hub, repo, choice, Listener(report, show_bar=True))[0].path


def fetch_files(hub: Hub, repo: str, choice: FileChoice, listener: Listener) -> tuple[FetchedFile, ...]:
    """A repository's GGUF, all parts of a split one in order, downloaded where they are not in the cache.

    Errors as `fetch_model`'s.
    """
    names, is_online = _list_files(hub, repo, listener)
    chosen = choose_file(names, choice)
    if chosen is None:
        models = [name for name in names if name.lower().endswith(".gguf")]
        where = repo if is_online else f"the cached copy of {repo}"
        raise ModelFileError(f"{where} has no {choice.wanted}" + _other_way(repo, models, names))
    return tuple(_fetch_file(hub, repo, part, is_online, listener) for part in split_parts(chosen))


def _other_way(repo: str, models: list[str], names: list[str]) -> str:
    if models:
        return f"; choose one of: {', '.join(models[:30])}"
    return f"; it has the original's weights: `gguf-embed convert {repo}` makes a GGUF" if source_files(names) else ""


def fetch_directory(hub: Hub, repo: str, report: Callable[[str], None] | Listener) -> Path:
    """A folder with all that our converter reads of an original model: configurations, tokenizer, weights, README.

    It lies in the hub's cache. Raises `ModelFileError` as `fetch_model`, and when there are no weights we can read.
    """
    listener = report if isinstance(report, Listener) else Listener(report, show_bar=True)
    names, is_online = _list_files(hub, repo, listener)
    wanted = source_files(names)
    if not wanted:
        raise ModelFileError(f"{repo} has no weights that can be converted (*.safetensors or a table of word vectors)")
    paths = {name: _fetch_file(hub, repo, name, is_online, listener).path for name in wanted}
    name, path = next(iter(paths.items()))
    return path.parents[name.count("/")]


def _list_files(hub: Hub, repo: str, listener: Listener) -> tuple[list[str], bool]:
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
        told = f"{exc}; using the files that are cached"
        listener.say(told)
        listener.progress(PullProgress(told))
        return cached, False


def _repo_folder(hub: Hub, repo: str) -> Path:
    from huggingface_hub import constants

    return Path(hub.cache_dir or constants.HF_HUB_CACHE) / ("models--" + repo.replace("/", "--"))


def _cached_files(hub: Hub, repo: str) -> list[str]:
    """Names of the repository's files in the hub's cache, of the revision that "main" last meant."""
    root = _repo_folder(hub, repo)
    try:
        revision = (root / "refs" / "main").read_text(encoding="utf-8").strip()
    except OSError:
        return []
    snapshot = root / "snapshots" / revision
    return sorted(path.relative_to(snapshot).as_posix() for path in snapshot.rglob("*") if path.is_file())


def _fetch_file(hub: Hub, repo: str, name: str, is_online: bool, listener: Listener) -> FetchedFile:
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

    if is_online:
        with _explained(repo, name):
            found = get_hf_file_metadata(hf_hub_url(repo, name, endpoint=hub.endpoint), timeout=15.0)
        if _ETAG.fullmatch(found.etag or "") and (found.size or 0) <= _MAX_STREAMED_BYTES:
            _fill_blob(hub, repo, name, found, listener)
    with _explained(repo, name):
        path = Path(
            hf_hub_download(repo, name, endpoint=hub.endpoint, cache_dir=hub.cache_dir, local_files_only=not is_online)
        )
    blob = path.resolve().name  # the cache names large files by their sha256
    return FetchedFile(path, blob if is_sha256(blob) else sha256_of(path), path.stat().st_size)


def _fill_blob(hub: Hub, repo: str, name: str, found: HfFileMetadata, listener: Listener) -> None:
    """See to it that the file's content is in the cache, whole and checked, under the name that the client expects."""
    from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined]

    folder, etag = _repo_folder(hub, repo), str(found.etag)
    blob, partial = folder / "blobs" / etag, folder / "blobs" / f"{etag}.incomplete"
    lock = folder.parent / ".locks" / folder.name / f"{etag}.lock"
    with _explained(repo, name):
        for parent in (blob.parent, lock.parent):
            parent.mkdir(parents=True, exist_ok=True)
    if blob.exists():
        return
    step = PullProgress(f"pulling {etag[:12]}", f"sha256:{etag}" if is_sha256(etag) else "", found.size or 0)
    listener.say(f"downloading {repo}/{name}" + (f" ({human_size(found.size)})" if found.size else ""))
    with WeakFileLock(lock):  # another process may be at it
        if blob.exists():
            return
        try:
            _stream(hub, repo, name, partial, step, listener)
        except ModelFileError as exc:
            raise _with_hint(exc, partial, step.total_bytes) from exc.__cause__
        listener.progress(PullProgress("verifying sha256 digest"))
        check_content(partial, etag, found.size, f"{repo}/{name}")
        with _explained(repo, name):
            partial.replace(blob)


def _stream(hub: Hub, repo: str, name: str, partial: Path, step: PullProgress, listener: Listener) -> None:
    """Append to the partial file what is missing of it."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers, disable_progress_bars  # type: ignore[attr-defined]

    if not listener.show_bar:
        disable_progress_bars()

    def tell_size(completed: int) -> None:
        listener.progress(PullProgress(step.status, step.digest, step.total_bytes, completed))

    size = step.total_bytes
    with _explained(repo, name):
        if partial.exists() and partial.stat().st_size > size:
            partial.unlink()  # of nothing we know
        with partial.open("ab") as file:
            n_here = file.tell()
            check_room(partial.parent, size - n_here, f"{repo}/{name}")
            counted = CountedFile(file, tell_size)
            counted.announce()
            url = hf_hub_url(repo, name, endpoint=hub.endpoint)
            http_get(
                url, cast(BinaryIO, counted), resume_size=n_here, headers=build_hf_headers(), expected_size=size or None
            )


def _with_hint(error: ModelFileError, partial: Path, size: int) -> ModelFileError:
    with suppress(OSError):
        n_kept = partial.stat().st_size
        if 0 < n_kept < size:
            kept = f"{human_size(n_kept)} of {human_size(size)} are kept, and the next try goes on from there"
            return type(error)(f"{error}; {kept}")
    return error


class _HubUnreachable(ModelFileError):
    """No answer from the hub: what is cached may still serve."""


@contextmanager
def _explained(repo: str, name: str | None = None) -> Iterator[None]:
    """Turn whatever the hub's client raises into one `ModelFileError`; what a listener raised comes out as it was.

    The client's network errors belong to an HTTP library that changes between its versions, so the last case takes any.
    """
    try:
        yield
    except EmbedError:
        raise
    except Stopped as exc:
        raise cast(BaseException, exc.__cause__) from None
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
        return ModelFileError(f"{repo} has no file {name}; check the file's name")
    if isinstance(exc, errors.HFValidationError):
        return ModelFileError(f"{repo!r} is not a repository name; give ORG/REPO or ORG/REPO:QUANT")
    if isinstance(exc, errors.HfHubHTTPError):
        return _explain_status(exc.response.status_code, where)
    if isinstance(exc, OSError) and exc.errno in _FULL:
        return ModelFileError(f"{where} cannot be downloaded: the disk is full; free some space or set HF_HUB_CACHE")
    if isinstance(exc, PermissionError):
        return ModelFileError(f"{where} cannot be stored: {exc}; set HF_HUB_CACHE to a folder you may write")
    why = " ".join(str(exc).split())  # some of the client's errors have several lines
    return _HubUnreachable(f"the hub cannot be reached for {where} ({type(exc).__name__}: {why}); check the network")


def _explain_status(status: int, where: str) -> ModelFileError:
    if status in (401, 403):
        return ModelFileError(f"the hub refused {where} ({status}): set HF_TOKEN to a token that may read it")
    if status == 404:
        return ModelFileError(f"{where} is not on the hub; check the name")
    if status == 429:
        return _HubUnreachable(f"the hub limits requests for {where} (429): wait, or set HF_TOKEN")
    return _HubUnreachable(f"the hub answered {status} for {where}; try again later")
