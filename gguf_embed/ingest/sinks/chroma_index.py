"""Copies of Chroma's indexes in a folder, from which they are restored after a process was killed while it wrote one.

Chroma has each change in a log in SQLite before it applies it. Every 1,000 changes it writes the index over the one on
the disk, file by file, then stores in SQLite up to which change the index goes, and deletes the log up to there. If a
process is killed in between, the files do not belong together, and nothing else has the vectors of earlier changes.

A copy is a folder `INDEX.CHANGE`. It gets this name when it is complete, and loses it before it is removed.
"""

from __future__ import annotations

import logging
import os
import shutil
import sqlite3
import sys
from contextlib import suppress
from pathlib import Path
from uuid import UUID

from gguf_embed.errors import EngineFailure
from gguf_embed.ingest.sinks.database import one_line
from gguf_embed.ingest.sinks.manifest_json import KEY
from gguf_embed.ingest.sinks.writer_lock import WriterLock

DATABASE = "chroma.sqlite3"
FOLDER = f"{KEY}.indexes"
PART = ".part"

MAX_COPIED_BYTES = 2**29
"""Of an index. A copy of each one that Chroma has written would otherwise cost more than to write all rows anew: with a
million rows of 768 numbers, 1.6 TB in all."""

_FICLONE = 0x40049409  # of linux/fs.h: the target's blocks are the source's, until one is changed

_INDEXES = (
    "select segments.id, coalesce(max_seq_id.seq_id, 0) from segments "
    "left join max_seq_id on max_seq_id.segment_id = segments.id where segments.scope = 'VECTOR'"
)
_log = logging.getLogger(__name__)


class IndexCopies:
    """Of the indexes that the only writer of a folder changes. Raises `sqlite3.Error`."""

    def __init__(self, folder: Path, name: str) -> None:
        """Chroma has made the folder's database. `name`: of the sink."""
        self._folder, self._name = folder, name
        # It stays open: closing it would release the locks that Chroma may have, which belong to the process.
        self._db = _connect(folder)
        self._kept: dict[str, int] = {}  # index → up to which change the copy goes
        self._has_failed = False

    def keep(self, collection: UUID) -> None:
        """Make sure that the collection's index on the disk has a copy. Before each call that may write over it.

        If one cannot be made, this is said, and no other is tried: it could fill the disk each time. The writer goes
        on, as Chroma needs less room than a copy, and a copy only helps if the process is killed.
        """
        if self._has_failed:
            return
        found = self._db.execute(f"{_INDEXES} and segments.collection = ?", (str(collection),)).fetchall()
        for index, change in found:
            if self._kept.get(index) != change:
                try:
                    self._copy(index, change)
                except OSError as error:
                    self._has_failed = True
                    _log.warning(
                        "%s: its index cannot be copied (%s). If this process is killed while Chroma writes the index, "
                        "all rows must be written anew",
                        self._name,
                        _reason(error),
                    )
                    return
                self._kept[index] = change

    def _copy(self, index: str, change: int) -> None:
        """Those of earlier changes go first: they are of no use any more, and take room."""
        copy = self._folder / FOLDER / f"{index}.{change}"
        for other in _copies(self._folder):
            if other.name.startswith(f"{index}."):
                _discard(other)
        part = copy.with_name(copy.name + PART)
        try:
            files = self._folder / index
            if files.exists():
                is_small = sum(file.stat().st_size for file in files.iterdir()) <= MAX_COPIED_BYTES
                shutil.copytree(files, part, copy_function=_copy_file if is_small else _share_file)
            else:
                part.mkdir(parents=True)
            os.replace(part, copy)
        except OSError:
            shutil.rmtree(part, ignore_errors=True)
            raise

    def close(self) -> None:
        """After Chroma's client has been closed."""
        self._db.close()


def lock_and_restore(folder: Path, name: str) -> WriterLock:
    """The lock of the only writer of the folder, with the indexes restored if the last one was killed.

    While one process restores them, others wait, so who is refused finds complete ones. Raises `ConfigError` if a
    process is writing, `OSError` if the folder cannot be locked, `EngineFailure` if an index cannot be restored.
    """
    restoring = WriterLock(folder / f"{KEY}.restoring", name, waits=True)
    try:
        lock = WriterLock(folder / f"{KEY}.lock", name)
        try:
            if has_copies(folder):
                restore_indexes(folder)
        except (OSError, sqlite3.Error) as error:
            lock.release()
            message = f"{name}: a job was killed, and its index cannot be restored ({one_line(error)})"
            raise EngineFailure(f"{message}: change that, then run this again") from error
        except BaseException:
            lock.release()
            raise
    finally:
        restoring.release()
    return lock


def has_copies(folder: Path) -> bool:
    """Whether a job writes to this folder, or has ended without removing its copies."""
    return (folder / DATABASE).exists() and bool(_copies(folder))


def restore_indexes(folder: Path) -> None:
    """Put back the indexes of which the copy goes as far as SQLite says. The others were written to their end.

    For the only writer of the folder, before Chroma reads an index. No copies are left. If it is killed, what is not
    restored has its copy still. Raises `OSError` and `sqlite3.Error`.
    """
    db = _connect(folder)
    try:
        changes = {index: str(change) for index, change in db.execute(_INDEXES)}
    finally:
        db.close()
    for copy in _copies(folder):
        if copy.suffix == f".{changes.get(copy.stem)}":
            index, damaged = folder / copy.stem, copy.with_suffix(PART)
            if index.exists():
                shutil.rmtree(damaged, ignore_errors=True)
                os.replace(index, damaged)
            os.replace(copy, index)
    remove_copies(folder)


def remove_copies(folder: Path) -> None:
    """When all that Chroma has written is complete. What cannot be removed now is removed after the next job."""
    for copy in _copies(folder):
        with suppress(OSError):
            _discard(copy)
    with suppress(OSError):
        (folder / FOLDER).rmdir()


def _copies(folder: Path) -> list[Path]:
    """Also those that are not complete."""
    place = folder / FOLDER
    return [path for path in place.iterdir() if path.is_dir()] if place.is_dir() else []


def _discard(copy: Path) -> None:
    part = copy
    if copy.suffix != PART:
        part = copy.with_name(copy.name + PART)
        shutil.rmtree(part, ignore_errors=True)
        os.replace(copy, part)
    shutil.rmtree(part, ignore_errors=True)


def _copy_file(source: str, target: str) -> None:
    if not _is_shared(source, target):
        shutil.copyfile(source, target)
    shutil.copymode(source, target)


def _share_file(source: str, target: str) -> None:
    """Raises `OSError` if that cannot be done."""
    if not _is_shared(source, target):
        limit = f"{MAX_COPIED_BYTES >> 20} MiB"
        raise OSError(f"it has more than {limit}, and this file system cannot share blocks as Btrfs and XFS do")
    shutil.copymode(source, target)


def _is_shared(source: str, target: str) -> bool:
    """Make a copy that takes no room, where the file system can do that."""
    if sys.platform != "linux":
        return False
    import fcntl

    with open(source, "rb") as reader, open(target, "wb") as writer:
        try:
            fcntl.ioctl(writer, _FICLONE, reader.fileno())
        except OSError:
            return False
    return True


def _reason(error: OSError) -> str:
    """The first one, if several files could not be copied."""
    if isinstance(error, shutil.Error) and isinstance(error.args[0], list):
        return str(error.args[0][0][2])
    return one_line(error)


def _connect(folder: Path) -> sqlite3.Connection:
    """It writes nothing, but may have to undo what a killed process has half written."""
    return sqlite3.connect(f"{(folder / DATABASE).resolve().as_uri()}?mode=rw", uri=True)
