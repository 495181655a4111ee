"""The models on this machine: pulled ones, and the files in --models-dir."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from gguf_embed.errors import EmbedError, InvalidRequest, ModelFileError, ModelNotFound
from gguf_embed.gguf_file.facts import check_can_embed
from gguf_embed.gguf_file.header import read_header
from gguf_embed.gguf_file.towers import model_of
from gguf_embed.model_store.catalog import load_catalog
from gguf_embed.model_store.default_model import DEFAULT_NAME
from gguf_embed.model_store.download import FetchedFile, Hub, Listener
from gguf_embed.model_store.folder import FolderFiles, FolderModel, ModelsFolder
from gguf_embed.model_store.hub_cache import delete_cached
from gguf_embed.model_store.names import model_key, parse_model_name, shown, split_parts
from gguf_embed.model_store.pull import fetch_planned
from gguf_embed.model_store.pull_plan import names_of_pulled, plan_pull
from gguf_embed.model_store.pulled_index import PulledIndex, PulledModel, users_of
from gguf_embed.model_store.similar import unknown_model
from gguf_embed.types import PullProgress

STALE_S = 1.0
"""The disk is checked again when the list is older than this, or than `REST` times what the check took."""

REST = 10

FILE_GONE = "it was pulled, but its file is gone: pull it again"


@dataclass(frozen=True, slots=True)
class StoredModel:
    """One model that can be loaded now."""

    name: str
    aliases: tuple[str, ...]
    path: Path  # the first part of a split one
    size_bytes: int  # of all parts
    modified_unix_s: float
    digest: str  # sha256 of a pulled file; `header_digest` of a file in the folder
    origin: Literal["pulled", "folder"]
    repo: str | None


@dataclass(frozen=True, slots=True)
class Removed:
    """The result of `remove`."""

    freed_bytes: int
    still_used_by: tuple[str, ...]  # other names of the same file, which is kept for them


class ModelStore:
    """Lists, pulls, copies and removes models. Thread-safe, and safe to use from several processes."""

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
        self._models: tuple[StoredModel, ...] = ()
        self._refused: Mapping[str, str] = {}
        self.fresh_until_s = -math.inf  # by `clock`: until then `models` returns its previous result; changes reset it

    def models(self) -> tuple[StoredModel, ...]:
        """All models by name, those in the folder first. The same tuple object as long as nothing has changed.

        A name that exists in both means the folder's file. Checks the disk at most once a second.
        """
        with self._lock:
            now_s = self.clock()
            if now_s >= self.fresh_until_s:
                self._look()
                done_s = self.clock()
                self.fresh_until_s = max(now_s + STALE_S, done_s + REST * (done_s - now_s))
            return self._models

    def refused(self) -> Mapping[str, str]:
        """Names of files on this machine that are no models, each with why, as of the last call of `models`.

        The same object as long as nothing has changed.
        """
        with self._lock:
            return self._refused

    def _look(self) -> None:
        files = self._folder.look() if self._folder is not None else FolderFiles()
        pulled = self._index.models()
        here = [_of_pulled(model) for model in pulled if model.is_here]
        found = _merge([_of_file(model) for model in files.models], here)
        missing = [model for model in pulled if not model.is_here]
        gone = {name: FILE_GONE for model in missing for name in (model.name, *model.aliases)}
        refused = {**gone, **files.refused}
        if found != self._models:
            self._models = found
        if refused != self._refused:
            self._refused = refused

    def find(self, name: str) -> StoredModel | None:
        """The model with this name, else with this alias; case and ":latest" do not matter."""
        key, models = model_key(name), self.models()
        for model in models:
            if model_key(model.name) == key:
                return model
        return next((model for model in models if key in map(model_key, model.aliases)), None)

    def pull(self, name: str, progress: Callable[[PullProgress], None]) -> StoredModel:
        """Download a model or convert its original, check it and add it to the index; blocks.

        `name` is a catalog alias or a repository, never a path. Files on this machine are not downloaded again.
        An exception from `progress` stops the pull and is passed on. Raises `InvalidRequest`, `ModelNotFound`,
        `NotSupported`, `ModelFileError`.
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
        model = PulledModel(own_name, aliases, paths, size_bytes, files[0].sha256, repo, time.time())
        self._index.write(model)
        self._invalidate()
        progress(PullProgress("success"))
        return _of_pulled(model)

    def add(self, name: str, path: Path, digest: str) -> None:
        """Register a file (with all parts of a split model) under a name, replacing a pulled model of that name.

        Raises `InvalidRequest` for an invalid name or one that a file in the folder has, and `ModelFileError`.
        """
        own_name = _bare(name)
        known = self.find(name)
        if known is not None and known.origin == "folder":
            raise InvalidRequest(f"{shown(name)} is a file in the models folder; choose another name", "destination")
        same = next((model for model in self._index.models() if model.paths[0] == path), None)
        if same is not None:
            model = replace(same, name=own_name, aliases=(), pulled_unix_s=time.time())
        else:
            parts = tuple(path.with_name(part) for part in split_parts(path.name))
            try:
                size_bytes = sum(part.stat().st_size for part in parts)
            except OSError as exc:
                raise ModelFileError(f"{exc.filename} cannot be read: {exc.strerror or exc}") from exc
            model = PulledModel(own_name, (), parts, size_bytes, digest, None, time.time())
        self._index.write(model)
        self._invalidate()

    def copy(self, source: str, destination: str) -> None:
        """Give a model's files another name. Raises `ModelNotFound`, and the errors of `add`."""
        parse_model_name(destination)
        model = self.find(source)
        if model is None:
            raise self._not_found(source)
        self.add(destination, model.path, model.digest)

    def remove(self, name: str) -> Removed:
        """Remove a pulled model, with its files if no other model uses them and they are in the hub's cache or ours.

        Raises `ModelNotFound`, or `InvalidRequest` for a file in the models folder, which belongs to the user.
        """
        pulled = self._find_pulled(name)
        if pulled is None:
            model = self.find(name)
            if model is None:
                raise self._not_found(name)
            raise InvalidRequest(f"{model.name} is {model.path}, a file in the models folder; delete it there", "model")
        self._index.delete(pulled.name)
        others = self._index.models()
        freed, users = 0, set[str]()
        for path in pulled.paths:
            still_used = users_of(path, others)
            users.update(still_used)
            freed += 0 if still_used else delete_cached(path, self._cache_dir)
        self._invalidate()
        return Removed(freed, tuple(sorted(users)))

    def _check(self, files: Iterable[FetchedFile]) -> None:
        """Read the headers; delete files that are not a model, unless another model uses them."""
        files = tuple(files)
        try:
            headers = [read_header(file.path) for file in files]
            check_can_embed(model_of(headers[0]))
        except EmbedError:
            others = self._index.models()
            for file in files:
                if not users_of(file.path, others):
                    delete_cached(file.path, self._cache_dir)
            raise

    def _find_pulled(self, name: str) -> PulledModel | None:
        """Find a pulled model, even if its files are gone, so that it can still be removed."""
        key, models = model_key(name), self._index.models()
        by_name = (model for model in models if model_key(model.name) == key)
        by_alias = (model for model in models if key in map(model_key, model.aliases))
        return next(by_name, None) or next(by_alias, None)

    def _not_found(self, name: str) -> ModelNotFound:
        """The error for a name that no model on this machine has."""
        row = load_catalog().find(name)
        if row is not None:
            what = "is built in, and was not pulled" if row.name == DEFAULT_NAME else "is not pulled"
            return ModelNotFound(f"{row.name} {what}; `gguf-embed list` shows the models on this machine")
        return unknown_model(name, [other for model in self.models() for other in (model.name, *model.aliases)])

    def _invalidate(self) -> None:
        with self._lock:
            self.fresh_until_s = -math.inf


def _merge(first: list[StoredModel], second: list[StoredModel]) -> tuple[StoredModel, ...]:
    taken = {model_key(model.name) for model in first}
    return (*first, *(model for model in second if model_key(model.name) not in taken))


def _of_file(model: FolderModel) -> StoredModel:
    return StoredModel(
        model.name, (), model.path, model.size_bytes, model.modified_unix_s, model.digest, "folder", None
    )


def _of_pulled(model: PulledModel) -> StoredModel:
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
    """The name as written, without the hub's address and ":latest"."""
    found = parse_model_name(name)
    return found.base if found.tag is None else f"{found.base}:{found.tag}"
