"""Copies of Chroma's indexes in a folder, from which they are restored after a process was killed while it wrote one.

Chroma has each change in a log in SQLite before it applies it. Every 1,000 changes it writes the index over the one on
the disk, file by file, then stores in SQLite up to which change the index goes, and deletes the log up to there. If a
process is killed in between, the files do not belong together, and nothing else has the vectors of earlier changes.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from pathlib import Path
from uuid import UUID

from gguf_embed.ingest.sinks.manifest_json import KEY

DATABASE = "chroma.sqlite3"
FOLDER = f"{KEY}.indexes"
PART = ".part"

_INDEXES = (
    "select segments.id, coalesce(max_seq_id.seq_id, 0) from segments "
    "left join max_seq_id on max_seq_id.segment_id = segments.id where segments.scope = 'VECTOR'"
)


class IndexCopies:
    """Of the indexes that the only writer of a folder changes. Raises `OSError` and `sqlite3.Error`."""

    def __init__(self, folder: Path) -> None:
        """Chroma has made the folder's database."""
        self._folder = folder
        # It stays open: closing it would release the locks that Chroma may have, which belong to the process.
        self._db = _connect(folder)
        self._kept: dict[str, int] = {}  # index → up to which change the copy goes

    def keep(self, collection: UUID) -> None:
        """Make sure that the collection's index on the disk has a copy. Before each call that may write over it."""
        found = self._db.execute(f"{_INDEXES} and segments.collection = ?", (str(collection),)).fetchall()
        for index, change in found:
            if self._kept.get(index) != change:
                self._copy(index, change)
                self._kept[index] = change

    def _copy(self, index: str, change: int) -> None:
        copy = self._folder / FOLDER / f"{index}.{change}"
        if not copy.exists():  # else it was restored from there
            part = copy.with_name(copy.name + PART)
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
            if (self._folder / index).exists():
                shutil.copytree(self._folder / index, part, dirs_exist_ok=True)
            os.replace(part, copy)
        for other in copy.parent.glob(f"{index}.*"):
            if other != copy:
                shutil.rmtree(other)

    def close(self) -> None:
        """After Chroma's client has been closed."""
        self._db.close()


def has_copies(folder: Path) -> bool:
    """Whether a job writes to this folder, or has ended without removing its copies."""
    return (folder / FOLDER).exists()


def restore_indexes(folder: Path) -> None:
    """Put back the indexes of which the copy goes as far as SQLite says. The others were written to their end.

    For the only writer of the folder, before Chroma reads an index. The copies stay: it may be killed as well.
    """
    db = _connect(folder)
    changes = {index: str(change) for index, change in db.execute(_INDEXES)}
    db.close()
    for copy in (folder / FOLDER).iterdir():
        if copy.suffix == f".{changes.get(copy.stem)}":
            shutil.rmtree(folder / copy.stem, ignore_errors=True)
            shutil.copytree(copy, folder / copy.stem)
        else:
            shutil.rmtree(copy)


def remove_copies(folder: Path) -> None:
    """When all that Chroma has written is complete."""
    shutil.rmtree(folder / FOLDER, ignore_errors=True)


def _connect(folder: Path) -> sqlite3.Connection:
    """It writes nothing, but may have to undo what a killed process has half written."""
    return sqlite3.connect(f"{(folder / DATABASE).resolve().as_uri()}?mode=rw", uri=True)
