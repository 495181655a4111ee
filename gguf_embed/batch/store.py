"""The folder of files and batches: what is in it, its limits, and changes that are complete or do not happen.

    key           32 random bytes, with which API keys become owners
    lock          held by the server that uses the folder
    files/        file-….json the record, file-….data the content, file-….part an upload
    batches/      batch_….json the record, batch_….output and batch_….errors the lines until the batch is over

No name in it comes from a request: an id is looked up among the records.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from gguf_embed.batch.errors import InUse, NoSuchObject, StorageFailed, StorageFull
from gguf_embed.batch.records import Batch, BatchLimits, FileRecord, dump, load_batch, load_file
from gguf_embed.batch.space import Space
from gguf_embed.errors import ModelFileError, is_full
from gguf_embed.gguf_file.atomic_write import atomic_write

try:
    import fcntl
except ImportError:  # Windows: nothing keeps two servers from one folder
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

_RecordT = TypeVar("_RecordT", FileRecord, Batch)

RECORD_BYTES = 4096
"""What a record counts for: the smallest file on most disks."""

LOGS = ("output", "errors")


@dataclass(slots=True, eq=False)
class Store:
    """An open folder. Methods that write block for milliseconds, and are safe on one thread at a time."""

    folder: Path
    space: Space
    files: dict[str, FileRecord] = field(default_factory=dict)
    batches: dict[str, Batch] = field(default_factory=dict)
    _lock: int | None = None
    _key: bytes = b""
    _last_number: int = 0

    def all_files(self) -> list[FileRecord]:
        """Oldest first. A copy, because another thread may add one."""
        return list(self.files.values())

    def all_batches(self) -> list[Batch]:
        """Oldest first. A copy, because another thread may add one."""
        return list(self.batches.values())

    def owner_of(self, api_key: str) -> str:
        """What stands for an API key in records, from which the key cannot be read; "" for none."""
        if not api_key:
            return ""
        return hmac.new(self._key, api_key.encode("utf-8", "surrogateescape"), hashlib.sha256).hexdigest()

    def new_number(self) -> int:
        self._last_number += 1
        return self._last_number

    def content_path(self, file_id: str) -> Path:
        return self.folder / "files" / f"{file_id}.data"

    def part_path(self, file_id: str) -> Path:
        return self.folder / "files" / f"{file_id}.part"

    def log_path(self, batch_id: str, log: str) -> Path:
        """`log`: one of `LOGS`."""
        return self.folder / "batches" / f"{batch_id}.{log}"

    def add_file(self, record: FileRecord, content: Path) -> None:
        """Make a complete file of `content`, which is moved. Does nothing twice."""
        with _words(self.folder):
            if content.exists():
                _sync(content)
                os.replace(content, self.content_path(record.id))
            self._write(self._file_record(record.id), dump(record))
        self.files[record.id] = record
        self._last_number = max(self._last_number, record.number)

    def discard_file(self, file_id: str, owner: str, n_bytes: int) -> None:
        """Remove what there is of a file that was not added, and give back what it has taken."""
        with _words(self.folder):
            for path in (self._file_record(file_id), self.content_path(file_id), self.part_path(file_id)):
                path.unlink(missing_ok=True)
        self.space.give(owner, n_bytes + RECORD_BYTES, n_files=1)

    def add_batch(self, batch: Batch) -> None:
        """Store a new batch. Raises `NoSuchObject` if its input was deleted meanwhile, and `StorageFull`."""
        if batch.input_file_id not in self.files:
            raise NoSuchObject("file", batch.input_file_id)
        with self.space.taken(batch.owner, RECORD_BYTES):
            try:
                self.save_batch(batch)
            except BaseException:
                with suppress(OSError):  # the record may be there, and only its folder not synced
                    self._batch_record(batch.id).unlink(missing_ok=True)
                raise

    def save_batch(self, batch: Batch) -> None:
        """Store the next state of a batch."""
        with _words(self.folder):
            self._write(self._batch_record(batch.id), dump(batch))
        self.batches[batch.id] = batch

    def remove_file(self, file_id: str) -> bool:
        """Returns whether there was one. Raises `InUse` if a batch that is not over reads it."""
        record = self.files.get(file_id)
        if record is None:
            return False
        reader = next((b for b in self.batches.values() if b.input_file_id == file_id and not b.is_over), None)
        if reader is not None:
            raise InUse(
                f"file {file_id} is read by {reader.id}, which is {reader.status}: cancel that first", "file_id"
            )
        with _words(self.folder):
            self._file_record(file_id).unlink(missing_ok=True)
            self.content_path(file_id).unlink(missing_ok=True)
        del self.files[file_id]
        self.space.give(record.owner, record.n_bytes + RECORD_BYTES, n_files=1)
        return True

    def remove_batch(self, batch_id: str) -> None:
        """Does nothing if there is none."""
        batch = self.batches.get(batch_id)
        if batch is None:
            return
        with _words(self.folder):
            self._batch_record(batch_id).unlink(missing_ok=True)
        del self.batches[batch_id]
        self.space.give(batch.owner, RECORD_BYTES)

    def _file_record(self, file_id: str) -> Path:
        return self.folder / "files" / f"{file_id}.json"

    def _batch_record(self, batch_id: str) -> Path:
        return self.folder / "batches" / f"{batch_id}.json"

    def _write(self, path: Path, content: bytes) -> None:
        with atomic_write(path, make_folder=False) as temporary:
            temporary.write_bytes(content)

    def close(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def open_store(folder: Path, limits: BatchLimits) -> Store:
    """Create or open the folder, and read all records. What a crash has left behind is removed.

    Raises `StorageFailed` if another server has it open, or it cannot be written.
    """
    with _words(folder):
        for part in (folder, folder / "files", folder / "batches"):
            part.mkdir(mode=0o700, parents=True, exist_ok=True)
        store = Store(folder, Space(folder, limits), _lock=_locked(folder / "lock"))
        try:
            store._key = _key(folder / "key")
            _load(store)
        except BaseException:
            store.close()
            raise
    return store


def lock_file(path: Path) -> int | None:
    """Create and lock a file: its handle, which holds the lock until it is closed. None: another process has it."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    if fcntl is not None:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(handle)
            return None
    return handle


def _locked(path: Path) -> int:
    handle = lock_file(path)
    if handle is None:
        raise StorageFailed(
            "another server on this machine uses the same folder of batches: start this one with another --batch-dir"
        )
    return handle


def _key(path: Path) -> bytes:
    if not path.exists():
        with atomic_write(path, make_folder=False) as temporary:
            temporary.touch(0o600)
            temporary.write_bytes(secrets.token_bytes(32))
    return path.read_bytes()


def _load(store: Store) -> None:
    store.files = {record.id: record for record in _records(store.folder / "files", load_file)}
    store.batches = {record.id: record for record in _records(store.folder / "batches", load_batch)}
    numbers = [record.number for record in store.files.values()] + [batch.number for batch in store.batches.values()]
    store._last_number = max(numbers, default=0)
    for path in _left_over(store):
        path.unlink(missing_ok=True)
    _count_used(store)


def _count_used(store: Store) -> None:
    """Add what is in the folder to its space."""
    owners: dict[str | None, str] = {}
    for file in store.files.values():
        owners[file.id] = file.owner
        store.space.add(file.owner, RECORD_BYTES, n_files=1)
    for batch in store.batches.values():
        owners.update(dict.fromkeys((batch.id, batch.output_file_id, batch.error_file_id), batch.owner))
        store.space.add(batch.owner, RECORD_BYTES)
    for folder in (store.folder / "files", store.folder / "batches"):
        for entry in os.scandir(folder):
            stem, suffix = os.path.splitext(entry.name)
            if suffix != ".json":
                store.space.add(owners.get(stem, ""), entry.stat().st_size)


def _records(folder: Path, load: Callable[[bytes], _RecordT]) -> list[_RecordT]:
    """All records that can be read, oldest first."""
    found: list[_RecordT] = []
    for path in folder.glob("*.json"):
        try:
            record = load(path.read_bytes())
            if record.id == path.stem:
                found.append(record)
        except (ValueError, TypeError, KeyError) as exc:
            logger.warning("%s is not a record of a file or batch (%s): it is ignored", path, exc)
    return sorted(found, key=lambda record: record.number)


def _left_over(store: Store) -> Iterable[Path]:
    """Uploads that never ended, contents without a record, and lines of batches that are over or gone."""
    awaited = {
        file_id
        for batch in store.batches.values()
        if not batch.is_over
        for file_id in (batch.output_file_id, batch.error_file_id)
    }
    for path in (store.folder / "files").iterdir():
        if path.suffix in (".part", ".tmp") or (path.suffix == ".data" and path.stem not in {*store.files, *awaited}):
            yield path
    for path in (store.folder / "batches").iterdir():
        batch = store.batches.get(path.stem)
        if path.suffix == ".tmp" or (path.suffix[1:] in LOGS and (batch is None or batch.is_over)):
            yield path


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _words(folder: Path) -> Iterator[None]:
    """Turns failures of the disk into errors whose message has no path of the server."""
    try:
        yield
    except ModelFileError as error:
        if isinstance(error.__cause__, OSError):
            raise storage_error(error.__cause__, folder) from error
        raise
    except OSError as error:
        raise storage_error(error, folder) from error


def storage_error(error: OSError, folder: Path) -> StorageFull | StorageFailed:
    """The error for a failure of the disk. The log has the folder, the client does not."""
    logger.warning("batches in %s: %s", folder, error)
    if is_full(error):
        return StorageFull("the server's disk is full: delete files, or free some space on it")
    return StorageFailed(
        f"the folder of batches cannot be read or written ({error.strerror or error}): start the server with another "
        "--batch-dir"
    )
