"""The models that are on this machine: those that were pulled, and the files of --models-dir."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from gguf_embed.errors import EmbedError, InvalidRequest, ModelFileError, ModelNotFound
from gguf_embed.gguf_file.facts import check_can_embed
from gguf_embed.gguf_file.header import read_header
from gguf_embed.model_store.catalog import load_catalog
from gguf_embed.model_store.download import FetchedFile, Hub, Listener
from gguf_embed.model_store.folder import ModelsFolder
from gguf_embed.model_store.hub_cache import delete_cached
from gguf_embed.model_store.names import model_key, parse_model_name, shown, split_parts
from gguf_embed.model_store.pull import fetch_planned
from gguf_embed.model_store.pull_plan import names_of_pulled, plan_pull
from gguf_embed.model_store.pulled_index import PulledIndex, PulledModel, users_of
from gguf_embed.types import PullProgress

STALE_S = 1.0
"""How old the list may be before the disk is looked at again."""


@dataclass(frozen=True, slots=True)
class StoredModel:
    """One model that can be loaded now."""

    name: str
    aliases: tuple[str, ...]
    path: Path  # the first part of a split one
    size_bytes: int  # of all parts
    modified_unix_s: float
    digest: str  # sha256 of a pulled file; of a folder's file `digest.header_digest`
    origin: Literal["pulled", "folder"]
    repo: str | None


@dataclass(frozen=True, slots=True)
class Removed:
    """What `remove` did."""

    freed_bytes: int
    still_used_by: tuple[str, ...]  # other names of the same file, which therefore stays


class ModelStore:
    """All entries, and pulling, copying and removing. Thread-safe; every process reads the same folders."""

    def __init__(
        self,
        cache_dir: Path,
        models_dir: Path | None = None,
        hub: Hub | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cache_dir = cache_dir
        self._index = PulledIndex(cache_dir / "pulled")
        self._folder = ModelsFolder(models_dir) if models_dir is not None else None
        self._hub = hub or Hub()
        self.clock = clock
        self._lock = threading.Lock()
        self._entries: tuple[StoredModel, ...] = ()
        self.fresh_until_s = -math.inf  # by `clock`: until then `entries` gives what it gave; a change here resets it

    def entries(self) -> tuple[StoredModel, ...]:
        """By name, those of the folder first. The very same tuple as long as nothing changed.

        A name that both have is the folder's. Looks at the disk at most once a second.
        """
        with self._lock:
            now_s = self.clock()
            if now_s >= self.fresh_until_s:
                found = _merged(self._folder_entries(), self._pulled_entries())
                if found != self._entries:
                    self._entries = found
                self.fresh_until_s = now_s + STALE_S
            return self._entries

    def find(self, name: str) -> StoredModel | None:
        """The entry with this name, else with this alias; names before aliases, case and ":latest" do not matter."""
        key, entries = model_key(name), self.entries()
        for entry in entries:
            if model_key(entry.name) == key:
                return entry
        return next((entry for entry in entries if key in map(model_key, entry.aliases)), None)

    def pull(self, name: str, progress: Callable[[PullProgress], None]) -> StoredModel:
        """Download a model, or convert its original, check it and enter it; blocks.

        `name` is a catalog alias or a repository, never a path. Files that are here already are not fetched again.
        What `progress` raises ends it. Raises `InvalidRequest`, `ModelNotFound`, `NotSupported`, `ModelFileError`.
        """
        plan = plan_pull(name, load_catalog())
        progress(PullProgress("pulling manifest"))
        files = fetch_planned(plan, self._cache_dir, self._hub, Listener(lambda line: None, progress))
        self._check(files)
        progress(PullProgress("writing manifest"))
        own_name, aliases = names_of_pulled(plan, files[0].path.name)
        from_hub = plan.repo is not None and not files[0].path.is_relative_to(self._cache_dir)
        repo = plan.repo if from_hub else plan.convert
        size_bytes = sum(file.size_bytes for file in files)
        paths = tuple(file.path for file in files)
        entry = PulledModel(own_name, aliases, paths, size_bytes, files[0].sha256, repo, time.time())
        self._index.write(entry)
        self._forget()
        progress(PullProgress("success"))
        return _pulled_entry(entry)

    def add(self, name: str, path: Path, digest: str) -> None:
        """Enter a file (all parts, where it is the first of a split one) under a name; an earlier pulled one goes.

        Raises `InvalidRequest` for a name that is none or that a file of the folder has, `ModelFileError`.
        """
        own_name = _bare(name)
        known = self.find(name)
        if known is not None and known.origin == "folder":
            raise InvalidRequest(f"{shown(name)} is a file of the models folder; choose another name", "destination")
        same = next((model for model in self._index.models() if model.paths[0] == path), None)
        if same is not None:
            model = replace(same, name=own_name, aliases=(), pulled_unix_s=time.time())
        else:
            parts = tuple(path.with_name(part) for part in split_parts(path.name))
            try:
                size_bytes = sum(part.stat().st_size for part in parts)
            except OSError as exc:
                raise ModelFileError(f"{exc.filename}: cannot be read: {exc.strerror or exc}") from exc
            model = PulledModel(own_name, (), parts, size_bytes, digest, None, time.time())
        self._index.write(model)
        self._forget()

    def copy(self, source: str, destination: str) -> None:
        """Give an entry's files a further name. Raises `ModelNotFound`, and as `add`."""
        parse_model_name(destination)
        entry = self.find(source)
        if entry is None:
            raise ModelNotFound(f"no model is called {shown(source)}; `gguf-embed list` shows those that are here")
        self.add(destination, entry.path, entry.digest)

    def remove(self, name: str) -> Removed:
        """Take a pulled entry away, and its files where no other entry uses them and they are the hub cache's or ours.

        Raises `ModelNotFound`, or `InvalidRequest` for a file of the models folder: that one is the user's.
        """
        pulled = self._find_pulled(name)
        if pulled is None:
            entry = self.find(name)
            if entry is not None:
                raise InvalidRequest(
                    f"{entry.name} is {entry.path}, a file of the models folder; delete it there", "model"
                )
            raise ModelNotFound(f"no model is called {shown(name)}; `gguf-embed list` shows those that are here")
        self._index.delete(pulled.name)
        others = self._index.models()
        freed, users = 0, set[str]()
        for path in pulled.paths:
            still_used = users_of(path, others)
            users.update(still_used)
            freed += 0 if still_used else delete_cached(path, self._cache_dir)
        self._forget()
        return Removed(freed, tuple(sorted(users)))

    def _check(self, files: Iterable[FetchedFile]) -> None:
        """Read the headers; a file that is no model goes again, unless another entry uses it."""
        files = tuple(files)
        try:
            headers = [read_header(file.path) for file in files]
            check_can_embed(headers[0])
        except EmbedError:
            others = self._index.models()
            for file in files:
                if not users_of(file.path, others):
                    delete_cached(file.path, self._cache_dir)
            raise

    def _find_pulled(self, name: str) -> PulledModel | None:
        """Also one whose files are gone: it can still be removed."""
        key, models = model_key(name), self._index.models()
        by_name = (model for model in models if model_key(model.name) == key)
        by_alias = (model for model in models if key in map(model_key, model.aliases))
        return next(by_name, None) or next(by_alias, None)

    def _forget(self) -> None:
        with self._lock:
            self.fresh_until_s = -math.inf

    def _folder_entries(self) -> list[StoredModel]:
        models = self._folder.models() if self._folder is not None else ()
        return [
            StoredModel(
                model.name, (), model.path, model.size_bytes, model.modified_unix_s, model.digest, "folder", None
            )
            for model in models
        ]

    def _pulled_entries(self) -> list[StoredModel]:
        return [_pulled_entry(model) for model in self._index.models() if model.is_here]


def _merged(first: list[StoredModel], second: list[StoredModel]) -> tuple[StoredModel, ...]:
    taken = {model_key(entry.name) for entry in first}
    return (*first, *(entry for entry in second if model_key(entry.name) not in taken))


def _pulled_entry(model: PulledModel) -> StoredModel:
    return StoredModel(
        model.name,
        model.aliases,
        model.paths[0],
        model.size_bytes,
        model.pulled_unix_s,
        model.digest,
        "pulled",
        model.repo,
    )


def _bare(name: str) -> str:
    """As a person wrote it, without address and ":latest"."""
    found = parse_model_name(name)
    return found.base if found.tag is None else f"{found.base}:{found.tag}"
