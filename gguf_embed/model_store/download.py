"""Downloads files from the Hugging Face hub into the hub's own cache.

Only this file and `hub_errors.py` import the client `huggingface_hub`, on first use, because that takes 0.3 s. The
client reads HF_TOKEN, HF_ENDPOINT, HF_HUB_CACHE and HF_HUB_OFFLINE itself. When a download is interrupted, it discards
what it has received. We therefore stream into a partial file in its cache, check it, rename it to what the client
expects, and let the client add it to its index.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

from gguf_embed.errors import ModelFileError
from gguf_embed.model_store.hub_errors import HubUnreachable, NotCached, NotOnHub, explained
from gguf_embed.model_store.names import FileChoice, choose_file, source_files, split_parts
from gguf_embed.model_store.partial_file import (
    CountedFile,
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
_MIN_CHUNK_BYTES, _MAX_CHUNK_BYTES = 2**20, 10 * 2**20  # the client's own is the larger one
_MAX_STREAMED_BYTES = 50 * 10**9  # the hub serves larger files only to its own client, which cannot resume


@dataclass(frozen=True, slots=True)
class Hub:
    """The hub and its cache. None: as set in the environment."""

    endpoint: str | None = None
    cache_dir: Path | None = None
    offline: bool = False  # never touch the network; HF_HUB_OFFLINE does the same


@dataclass(frozen=True, slots=True)
class FetchedFile:
    """One file in the hub's cache."""

    path: Path
    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Listener:
    """Receives the progress of a download: lines for people, or steps for a progress bar.

    An exception from `progress` stops the download and is passed on; the bytes so far are kept for the next attempt.
    """

    say: Callable[[str], None]
    progress: Callable[[PullProgress], None] = lambda step: None
    show_bar: bool = False  # the hub client's own bar


def fetch_model(hub: Hub, repo: str, quant: str | None, file: str | None, report: Callable[[str], None]) -> Path:
    """The local path of a repository's GGUF (the first part of a split one), downloaded if it is not in the cache.

    `file` names it; otherwise `quant` or llama.cpp's own preference chooses. Without network, cached files are used.
    Raises `ModelFileError` with the way out: no such repository or file, gated, unreachable, disk full, damaged.
    """
    choice = FileChoice(quant=quant, file=file)
    return fetch_files(hub, repo, choice, Listener(report, show_bar=True))[0].path


def fetch_files(hub: Hub, repo: str, choice: FileChoice, listener: Listener) -> tuple[FetchedFile, ...]:
    """A repository's GGUF, all parts of a split one in order, downloaded if they are not in the cache.

    Raises the errors of `fetch_model`.
    """
    names, is_online = _list_files(hub, repo, listener)
    chosen = choose_file(names, choice)
    if chosen is None:
        models = [name for name in names if name.lower().endswith(".gguf")]
        where = repo if is_online else f"the cached copy of {repo}"
        raise NotOnHub(f"{where} has no {choice.wanted}" + _alternative(repo, models, names))
    return tuple(_fetch_file(_HubFile(hub, repo, part), is_online, listener) for part in split_parts(chosen))


def _alternative(repo: str, models: list[str], names: list[str]) -> str:
    if models:
        return f"; choose one of: {', '.join(models[:30])}"
    if source_files(names):
        return f"; it has the original's weights: `gguf-embed convert {repo}` makes a GGUF"
    return ""


def fetch_directory(hub: Hub, repo: str, report: Callable[[str], None] | Listener) -> Path:
    """A folder in the hub's cache with what our converter reads: configurations, tokenizer, weights, README.

    Raises the errors of `fetch_model`, and `ModelFileError` if the repository has no weights that we can read.
    """
    listener = report if isinstance(report, Listener) else Listener(report, show_bar=True)
    names, is_online = _list_files(hub, repo, listener)
    wanted = source_files(names)
    if not wanted:
        raise ModelFileError(f"{repo} has no weights that can be converted (*.safetensors or a table of word vectors)")
    paths = {name: _fetch_file(_HubFile(hub, repo, name), is_online, listener).path for name in wanted}
    name, path = next(iter(paths.items()))
    return path.parents[name.count("/")]


def _list_files(hub: Hub, repo: str, listener: Listener) -> tuple[list[str], bool]:
    """The repository's file names, and whether they are from the hub; otherwise they are from the cache."""
    from huggingface_hub import HfApi, constants

    cached = _cached_files(hub, repo)
    if hub.offline or constants.HF_HUB_OFFLINE:
        if not cached:
            raise NotCached(
                f"{repo} is not in the hub's cache, and offline mode (--offline or HF_HUB_OFFLINE) forbids downloading "
                "it: run without it once"
            )
        return cached, False
    try:
        with explained(repo, endpoint=hub.endpoint):
            siblings = HfApi(endpoint=hub.endpoint).model_info(repo, timeout=15.0).siblings or []
            return sorted(sibling.rfilename for sibling in siblings), True
    except HubUnreachable as exc:
        if not cached:
            raise
        fallback = f"{exc}; using the files that are cached"
        listener.say(fallback)
        listener.progress(PullProgress(fallback))
        return cached, False


def _repo_folder(hub: Hub, repo: str) -> Path:
    from huggingface_hub import constants

    folder = Path(hub.cache_dir or constants.HF_HUB_CACHE)
    if folder.parts[:1] == ("~",):  # without a home directory, the client would make a folder with this name
        raise ModelFileError(f"{repo} needs the hub's cache, and there is no home directory: set HF_HUB_CACHE to one")
    return folder / ("models--" + repo.replace("/", "--"))


def _cached_files(hub: Hub, repo: str) -> list[str]:
    """Names of the repository's files in the hub's cache, in the last known revision of "main"."""
    root = _repo_folder(hub, repo)
    try:
        revision = (root / "refs" / "main").read_text(encoding="utf-8").strip()
    except OSError:
        return []
    snapshot = root / "snapshots" / revision
    return sorted(path.relative_to(snapshot).as_posix() for path in snapshot.rglob("*") if path.is_file())


@dataclass(frozen=True, slots=True)
class _HubFile:
    """One file of a repository on the hub."""

    hub: Hub
    repo: str
    name: str

    @property
    def label(self) -> str:
        """For messages."""
        return f"{self.repo}/{self.name}"

    @property
    def url(self) -> str:
        from huggingface_hub import hf_hub_url

        return hf_hub_url(self.repo, self.name, endpoint=self.hub.endpoint)


def _fetch_file(file: _HubFile, is_online: bool, listener: Listener) -> FetchedFile:
    from huggingface_hub import get_hf_file_metadata, hf_hub_download

    hub = file.hub
    if is_online:
        with explained(file.repo, file.name, file.hub.endpoint):
            found = get_hf_file_metadata(file.url, timeout=15.0)
        if _ETAG.fullmatch(found.etag or "") and (found.size or 0) <= _MAX_STREAMED_BYTES:
            _fill_blob(file, found, listener)
    with explained(file.repo, file.name, file.hub.endpoint):
        path = Path(
            hf_hub_download(
                file.repo,
                file.name,
                endpoint=hub.endpoint,
                cache_dir=hub.cache_dir,
                local_files_only=not is_online,
            )
        )
    blob = path.resolve().name  # the cache names large files by their sha256
    return FetchedFile(path, blob if is_sha256(blob) else sha256_of(path), path.stat().st_size)


def _fill_blob(file: _HubFile, found: HfFileMetadata, listener: Listener) -> None:
    """Put the file's checked content into the cache, under the name that the client expects, unless it is there."""
    from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined]

    folder, etag = _repo_folder(file.hub, file.repo), str(found.etag)
    blob, partial = folder / "blobs" / etag, folder / "blobs" / f"{etag}.incomplete"
    lock = folder.parent / ".locks" / folder.name / f"{etag}.lock"
    with explained(file.repo, file.name, file.hub.endpoint):
        for parent in (blob.parent, lock.parent):
            parent.mkdir(parents=True, exist_ok=True)
    if blob.exists():
        return
    start = PullProgress(f"pulling {etag[:12]}", f"sha256:{etag}" if is_sha256(etag) else "", found.size or 0)
    listener.say(f"downloading {file.label}" + (f" ({human_size(found.size)})" if found.size else ""))
    with WeakFileLock(lock):  # another process may be downloading it
        if blob.exists():
            return
        try:
            _stream(file, partial, start, listener)
        except ModelFileError as exc:
            raise _with_hint(exc, partial, start.total_bytes) from exc.__cause__
        listener.progress(PullProgress("verifying sha256 digest"))
        check_content(partial, etag, found.size, file.label)
        with explained(file.repo, file.name, file.hub.endpoint):
            partial.replace(blob)


def _stream(file: _HubFile, partial: Path, start: PullProgress, listener: Listener) -> None:
    """Append what is missing to the partial file. `start` is the progress at 0 bytes."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers, disable_progress_bars  # type: ignore[attr-defined]

    if not listener.show_bar:
        disable_progress_bars()

    def report_size(completed_bytes: int) -> None:
        listener.progress(replace(start, completed_bytes=completed_bytes))

    size = start.total_bytes
    constants.DOWNLOAD_CHUNK_SIZE = _chunk_bytes(size)
    with explained(file.repo, file.name, file.hub.endpoint):
        if partial.exists() and partial.stat().st_size > size:
            partial.unlink()  # too long: not the beginning of this file
        with partial.open("ab") as output:
            n_here = output.tell()
            check_room(partial.parent, size - n_here, file.label)
            counted = CountedFile(output, report_size)
            try:
                counted.announce()
                http_get(
                    file.url,
                    cast(BinaryIO, counted),
                    resume_size=n_here,
                    headers=build_hf_headers(),
                    expected_size=size or None,
                )
            except KeyboardInterrupt:
                counted.announce()  # it may have come between a write and its report
                raise


def _chunk_bytes(size: int) -> int:
    """How much is received between two reports: a hundredth, within limits."""
    return min(max(size // 100, _MIN_CHUNK_BYTES), _MAX_CHUNK_BYTES)


def _with_hint(error: ModelFileError, partial: Path, size: int) -> ModelFileError:
    with suppress(OSError):
        n_kept = partial.stat().st_size
        if 0 < n_kept < size:
            kept = f"{human_size(n_kept)} of {human_size(size)} are kept; the next attempt continues from there"
            return type(error)(f"{error}; {kept}")
    return error
