"""A file that arrives in pieces: on the disk as it comes, and a file for clients when it is complete."""

from __future__ import annotations

import asyncio
import os
import threading
from dataclasses import dataclass, field

from gguf_embed.batch.ledger import Ledger, new_id
from gguf_embed.batch.records import FileRecord
from gguf_embed.batch.store import RECORD_BYTES, storage_error
from gguf_embed.errors import PayloadTooLarge

PIECE_BYTES = 2**20
"""What is gathered in memory before it is written."""


@dataclass(slots=True, eq=False)
class Upload:
    """One upload. Call `finish`, or `abort`; both are complete even if the caller is cancelled."""

    _ledger: Ledger
    _owner: str
    _max_bytes: int
    _id: str
    n_bytes: int = 0
    _gathered: list[bytes] = field(default_factory=list)
    _n_gathered: int = 0
    _handle: int = -1
    _lock: threading.Lock = field(default_factory=threading.Lock)  # held while the handle is used: it may be used anew

    @classmethod
    async def begin(cls, ledger: Ledger, owner: str, max_bytes: int) -> Upload:
        """Raises `StorageFull` or `StorageFailed`."""
        ledger.store.space.take(owner, RECORD_BYTES, n_files=1)
        upload = cls(ledger, owner, max_bytes, new_id("file-"))
        try:
            await ledger.on_disk(upload._open)
        except BaseException as error:
            await upload.abort()  # runs after `_open`, which cancelling does not stop
            if isinstance(error, OSError):
                raise storage_error(error, ledger.store.folder) from error
            raise
        return upload

    def _open(self) -> None:
        self._handle = os.open(self._ledger.store.part_path(self._id), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)

    async def write(self, piece: bytes) -> None:
        """Raises `PayloadTooLarge`, `StorageFull` or `StorageFailed`."""
        if self.n_bytes + len(piece) > self._max_bytes:
            raise PayloadTooLarge(f"the file is over {self._max_bytes:,} bytes: split it into several batches")
        self._ledger.store.space.take(self._owner, len(piece))
        self.n_bytes += len(piece)
        self._gathered.append(piece)
        self._n_gathered += len(piece)
        if self._n_gathered >= PIECE_BYTES:
            await self._flush()

    async def _flush(self) -> None:
        pieces = b"".join(self._gathered)
        self._gathered.clear()
        self._n_gathered = 0
        try:
            await asyncio.to_thread(self._write_all, pieces)
        except OSError as error:
            raise storage_error(error, self._ledger.store.folder) from error

    def _write_all(self, content: bytes) -> None:
        left = memoryview(content)
        with self._lock:
            while left and self._handle >= 0:
                left = left[os.write(self._handle, left) :]

    async def finish(self, filename: str, purpose: str, kept_s: int) -> FileRecord:
        """The file exists when this returns. Raises `StorageFull` or `StorageFailed`."""
        await self._flush()
        store, now_s = self._ledger.store, self._ledger.now_s
        record = FileRecord(
            id=self._id,
            owner=self._owner,
            number=store.new_number(),
            n_bytes=self.n_bytes,
            created_at=now_s,
            filename=filename,
            purpose=purpose,
            expires_at=now_s + kept_s,
        )
        try:
            await self._ledger.on_disk(self._store, record)
        except OSError as error:
            raise storage_error(error, store.folder) from error
        return record

    def _store(self, record: FileRecord) -> None:
        self._close()
        self._ledger.store.add_file(record, self._ledger.store.part_path(self._id))

    async def abort(self) -> None:
        """Remove what has arrived. Does nothing after `finish`."""
        await self._ledger.on_disk(self._discard)

    def _discard(self) -> None:
        self._close()
        store = self._ledger.store
        if self._id not in store.files:  # `finish` may have been cancelled while the disk was at it
            store.discard_file(self._id, self._owner, self.n_bytes)

    def _close(self) -> None:
        with self._lock:
            handle, self._handle = self._handle, -1
        if handle >= 0:
            os.close(handle)
