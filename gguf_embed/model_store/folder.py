"""The GGUF files in the user's own folder, --models-dir."""

from __future__ import annotations

import gc
import logging
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gguf_embed.errors import ModelFileError
from gguf_embed.gguf_file.digest import header_digest
from gguf_embed.gguf_file.header import read_header
from gguf_embed.model_store.names import is_companion, model_stem, split_parts, without_folders

logger = logging.getLogger(__name__)

NEW_PER_FREEZE = 1_000
"""After so many new files, what is known of them is hidden from the garbage collector, which would otherwise go through
the facts of all files again and again: with 50,000, it held up the event loop for 0.1 s each time."""

MAX_DEPTH = 3
"""Levels of subfolders that are searched: enough for ORG/REPO/FILE."""

_Identity = tuple[tuple[str, int, int], ...]  # path, size, time in ns of every part


@dataclass(frozen=True, slots=True)
class FolderModel:
    """One model with all its parts present and intact."""

    name: str
    path: Path  # the first part
    size_bytes: int  # of all parts
    modified_unix_s: float
    digest: str


@dataclass(frozen=True, slots=True)
class FolderFiles:
    """What one look at the folder has found."""

    models: tuple[FolderModel, ...] = ()  # by name
    refused: Mapping[str, str] = field(default_factory=dict)  # name → why the file is not a model


@dataclass(frozen=True, slots=True)
class _Examined:
    """What reading a header has shown."""

    digest: str = ""
    problem: str = ""  # "": it is a model


class ModelsFolder:
    """Lists the folder at every call; reads a file's header only if the file is new or has changed."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._known: dict[_Identity, _Examined] = {}

    def look(self) -> FolderFiles:
        """All models. A file that is not a model, or is still being copied, is refused, and logged once."""
        groups = [parts for path in _gguf_files(self._root) if (parts := _parts(path)) is not None]
        stems = Counter(model_stem(parts[0].name).lower() for parts in groups)
        models: list[FolderModel] = []
        refused: dict[str, str] = {}
        known: dict[_Identity, _Examined] = {}
        n_new = 0
        for parts in groups:
            name = self._name(parts[0], stems)
            identity = _identify(parts)
            if identity is None:
                refused[name] = f"{parts[0].name}: not all of its {len(parts)} parts are there"
                continue
            examined = self._known.get(identity)
            if examined is None:
                examined = _examine(parts)
                n_new += 1
                freeze_after(n_new)
            known[identity] = examined
            if examined.problem:
                refused[name] = examined.problem
            else:
                models.append(_folder_model(name, parts[0], identity, examined.digest))
        self._known = known
        return FolderFiles(tuple(sorted(models, key=lambda model: model.name.lower())), refused)

    def _name(self, path: Path, stems: Counter[str]) -> str:
        """The file's stem; with its subfolder if another file has the same one."""
        relative = path.relative_to(self._root)
        stem = model_stem(relative.name)
        is_unique = stems[stem.lower()] == 1 or len(relative.parts) == 1
        return stem if is_unique else (relative.parent / stem).as_posix()


def freeze_after(n_new: int) -> None:
    """Call it with the number of new files, after each of them."""
    if n_new % NEW_PER_FREEZE == 0:
        gc.freeze()


def _folder_model(name: str, path: Path, identity: _Identity, digest: str) -> FolderModel:
    size_bytes = sum(size for _, size, _ in identity)
    modified_s = max(time_ns for _, _, time_ns in identity) / 1e9
    return FolderModel(name, path, size_bytes, modified_s, digest)


def _gguf_files(root: Path) -> Iterator[Path]:
    """All GGUF files except hidden and companion ones. A folder that cannot be read counts as empty."""
    for folder, folders, files in os.walk(root):
        depth = len(Path(folder).relative_to(root).parts)
        folders[:] = sorted(name for name in folders if not name.startswith(".")) if depth < MAX_DEPTH else []
        for name in sorted(files):
            if name.lower().endswith(".gguf") and not name.startswith(".") and not is_companion(name):
                yield Path(folder, name)


def _parts(path: Path) -> tuple[Path, ...] | None:
    """All parts of the model whose first part is `path`; None for any later part."""
    names = split_parts(path.name)
    return tuple(path.with_name(name) for name in names) if names[0] == path.name else None


def _identify(parts: tuple[Path, ...]) -> _Identity | None:
    """What changes when a part changes; None while a part is missing."""
    try:
        states = [(path, path.stat()) for path in parts]
    except OSError:
        return None
    return tuple((str(path), state.st_size, state.st_mtime_ns) for path, state in states)


def _examine(parts: tuple[Path, ...]) -> _Examined:
    try:
        return _Examined(header_digest([read_header(path) for path in parts]))
    except ModelFileError as error:
        logger.warning("%s is skipped: %s", parts[0].name, error.message)
        return _Examined(problem=without_folders(error.message, parts))
