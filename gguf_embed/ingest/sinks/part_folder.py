"""A folder of parts. Its `_manifest.json` names those that count; replacing that file is what commits.

Files that are not rows begin with an underscore: those who read a folder as a dataset leave them out.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

from gguf_embed.errors import ConfigError
from gguf_embed.ingest.rows import Manifest
from gguf_embed.ingest.sinks.manifest_json import KEY, from_object

MANIFEST_FILE = "_manifest.json"
LOCK_FILE = "_writer.lock"


@dataclass(frozen=True, slots=True)
class Part:
    """Ids that it removes from all parts before it, and rows."""

    name: str  # "part-000007": its files have this name and a suffix each
    n_rows: int
    n_removed: int = 0
    n_bytes: tuple[int, ...] = ()  # of the files with rows, one per suffix
    published: bool = False  # its files are renamed to what users look for


@dataclass(frozen=True, slots=True)
class Contents:
    """What `_manifest.json` says."""

    manifest: Manifest
    parts: tuple[Part, ...] = ()
    next_part: int = 1


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """A file that is there only when all of it is on the disk; it replaces one of the same name."""
    unfinished = path.with_name(f"_{path.name}.tmp")
    with unfinished.open("wb", buffering=1 << 20) as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)


def sync_folder(folder: Path) -> None:
    """Make new names in it survive a loss of power."""
    if sys.platform == "win32":
        return
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


class PartFolder:
    """The files of one sink. `kind` is its scheme; `published` says where the only part of each suffix goes."""

    def __init__(self, folder: Path, kind: str, suffixes: tuple[str, ...], published: Mapping[str, Path]) -> None:
        self.folder = folder
        self.suffixes = suffixes
        self.published = published
        self._kind = kind

    def load(self, name: str) -> Contents | None:
        """None: nothing yet. Raises `ConfigError` for a folder or file that no job of this kind has made."""
        try:
            text = (self.folder / MANIFEST_FILE).read_bytes()
        except FileNotFoundError:
            self._require_free(name)
            return None
        except NotADirectoryError as error:
            raise ConfigError(f"{self.folder} is a file: name a folder that is new or empty") from error
        try:
            found = json.loads(text)
            kind, manifest, parts = found["kind"], found[KEY], found["parts"]
        except (ValueError, TypeError, KeyError) as error:
            raise ConfigError(
                f"{self.folder / MANIFEST_FILE} was not made by a job of gguf-embed: name a folder that is new or empty"
            ) from error
        if kind != self._kind:
            raise ConfigError(f"{self.folder} was made as {kind}: and not as {self._kind}: — use {kind}:{self.folder}")
        manifest = from_object(manifest, name)
        try:
            listed = tuple(Part(**{**part, "n_bytes": tuple(part["n_bytes"])}) for part in parts)
            return Contents(manifest, listed, int(found["next_part"]))
        except (ValueError, TypeError, KeyError) as error:
            raise ConfigError(f"{self.folder / MANIFEST_FILE} is damaged: {error!r}") from error

    def _require_free(self, name: str) -> None:
        there = [path for path in self.published.values() if path.exists()]
        if self.folder.is_dir():
            ours = {LOCK_FILE, f"_{MANIFEST_FILE}.tmp"}
            there += [path for path in sorted(self.folder.iterdir()) if path.name not in ours]
        if there:
            raise ConfigError(
                f"{name} holds {there[0].name}, which no job of gguf-embed has made: name a place that is new or empty"
            )

    def commit(self, contents: Contents) -> None:
        """When this returns, these parts and no others count, whatever happens."""
        sync_folder(self.folder)
        text = {
            "kind": self._kind,
            KEY: asdict(contents.manifest),
            "next_part": contents.next_part,
            "parts": [asdict(part) for part in contents.parts],
        }
        with new_file(self.folder / MANIFEST_FILE) as file:
            file.write(json.dumps(text, ensure_ascii=False, indent=1).encode())
        sync_folder(self.folder)

    def new(self, name: str, suffix: str) -> Path:
        """Where a file of a new part is written."""
        return self.folder / f"{name}{suffix}"

    def removed(self, name: str) -> Path:
        """The file with the hashes of the ids that a part removes."""
        return self.folder / f"_{name}.removed"

    def file(self, part: Part, suffix: str) -> Path:
        """Where it is now: between a commit and the renaming, a published part still has its own name."""
        path = self.folder / f"{part.name}{suffix}"
        return self.published[suffix] if part.published and not path.exists() else path

    def check(self, part: Part, name: str) -> None:
        """Raises `ConfigError` if a file of rows is not as the job has left it."""
        for suffix, n_bytes in zip(self.suffixes, part.n_bytes, strict=True):
            path = self.file(part, suffix)
            size = path.stat().st_size if path.exists() else None
            if size != n_bytes:
                how = "is missing" if size is None else f"has {size} bytes instead of {n_bytes}"
                raise ConfigError(
                    f"{path} {how}, so {name} was changed since it was written: restore it, or start anew"
                )

    def publish(self, contents: Contents) -> None:
        """Give the published part the names that users look for."""
        for part in contents.parts:
            for suffix in self.suffixes if part.published else ():
                path = self.folder / f"{part.name}{suffix}"
                if path.exists():
                    path.replace(self.published[suffix])
                    sync_folder(self.published[suffix].parent)

    def clean(self, contents: Contents) -> None:
        """Remove parts that do not count, and what a writer that died left half written."""
        counting = {self.new(part.name, suffix) for part in contents.parts for suffix in self.suffixes}
        counting |= {self.removed(part.name) for part in contents.parts}
        for path in self.folder.iterdir():
            if path.name.endswith(".tmp") or (path.name.startswith(("part-", "_part-")) and path not in counting):
                path.unlink()
