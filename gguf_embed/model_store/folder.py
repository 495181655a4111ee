"""The GGUF files of a folder that the user keeps: --models-dir."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gguf_embed.errors import ModelFileError
from gguf_embed.gguf_file.digest import header_digest
from gguf_embed.gguf_file.header import read_header
from gguf_embed.model_store.names import is_companion, model_stem, split_parts

logger = logging.getLogger(__name__)

MAX_DEPTH = 3
"""Folders below it that are looked into: enough for ORG/REPO/FILE."""

_Identity = tuple[tuple[str, int, int], ...]  # path, size, time in ns of every part


@dataclass(frozen=True, slots=True)
class FolderModel:
    """One model, all parts of it present and whole."""

    name: str
    path: Path  # the first part
    size_bytes: int  # of all parts
    modified_unix_s: float
    digest: str


class ModelsFolder:
    """Looks again at every call; reads a file's header only when the file is new or has changed."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._known: dict[_Identity, str | None] = {}  # digest; None: not a model

    def models(self) -> tuple[FolderModel, ...]:
        """By name. A file that is no model, or is still being copied, is passed over; it is logged once."""
        groups = [parts for path in _gguf_files(self._root) if (parts := _parts(path)) is not None]
        stems = Counter(model_stem(parts[0].name).lower() for parts in groups)
        found, known = [], {}
        for parts in groups:
            identity = _identify(parts)
            if identity is None:
                continue
            known[identity] = digest = self._known[identity] if identity in self._known else _examine(parts)
            if digest is None:
                continue
            relative = parts[0].relative_to(self._root)
            stem = model_stem(relative.name)
            is_unique = stems[stem.lower()] == 1 or len(relative.parts) == 1
            name = stem if is_unique else (relative.parent / stem).as_posix()
            size_bytes = sum(size for _, size, _ in identity)
            modified_s = max(time_ns for _, _, time_ns in identity) / 1e9
            found.append(FolderModel(name, parts[0], size_bytes, modified_s, digest))
        self._known = known
        return tuple(sorted(found, key=lambda model: model.name.lower()))


def _gguf_files(root: Path) -> Iterator[Path]:
    """Models' files, hidden and companion ones left out. A folder that cannot be read has none."""
    for folder, folders, files in os.walk(root):
        depth = len(Path(folder).relative_to(root).parts)
        folders[:] = sorted(name for name in folders if not name.startswith(".")) if depth < MAX_DEPTH else []
        for name in sorted(files):
            if name.lower().endswith(".gguf") and not name.startswith(".") and not is_companion(name):
                yield Path(folder, name)


def _parts(path: Path) -> tuple[Path, ...] | None:
    """All parts of the model that begins with `path`; None for a further part."""
    names = split_parts(path.name)
    return tuple(path.with_name(name) for name in names) if names[0] == path.name else None


def _identify(parts: tuple[Path, ...]) -> _Identity | None:
    """None while a part is missing."""
    try:
        states = [(path, path.stat()) for path in parts]
    except OSError:
        return None
    return tuple((str(path), state.st_size, state.st_mtime_ns) for path, state in states)


def _examine(parts: tuple[Path, ...]) -> str | None:
    try:
        return header_digest([read_header(path) for path in parts])
    except ModelFileError as error:
        logger.warning("%s is passed over: %s", parts[0].name, error.message)
        return None
