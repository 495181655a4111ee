"""A file that arrives in pieces: on the disk as it comes, and a file for clients when it is complete."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass, field

from gguf_embed.batch.ledger import Ledger, new_id
from gguf_embed.batch.records import FileRecord
from gguf_embed.batch.store import RECORD_BYTES, storage_error
from gguf_embed.errors import PayloadTooLarge

PIECE_BYTES = 2**20
"""What is gathered in memory before it is written."""


@dataclass(slots=True, eq=False)
class Upload:
    """One upload. Call `finish`, or `abort`."""

    _ledger: Ledger
    _owner: str
    _max_bytes: int
    _id: str
    _handle: int
    n_bytes: int = 0
    _gathered: list[bytes] = field(default_factory=list)
    _n_gathered: int = 0

    @classmethod
    async def begin(cls, ledger: Ledger, owner: str, max_bytes: int) -> Upload:
        """Raises `StorageFull` or `StorageFailed`."""
        ledger.store.space.take(RECORD_BYTES)
        file_id = new_id("file-")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        try:
            handle = await ledger.on_disk(os.open, ledger.store.part_path(file_id), flags, 0o600)
        except OSError as error:
            ledger.store.space.give(RECORD_BYTES)
            raise storage_error(error, ledger.store.folder) from error
        return cls(ledger, owner, max_bytes, file_id, handle)

    async def write(self, piece: bytes) -> None:
        """Raises `PayloadTooLarge`, `StorageFull` or `StorageFailed`."""
        if self.n_bytes + len(piece) > self._max_bytes:
            raise PayloadTooLarge(f"the file is over {self._max_bytes:,} bytes: split it into several batches")
        self._ledger.store.space.take(len(piece))
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
            await asyncio.to_thread(_write_all, self._handle, pieces)
        except OSError as error:
            raise storage_error(error, self._ledger.store.folder) from error

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
        os.close(self._handle)
        self._handle = -1
        await self._ledger.on_disk(store.add_file, record, store.part_path(self._id))
        return record

    async def abort(self) -> None:
        """Remove what has arrived. Does nothing after `finish`."""
        store = self._ledger.store
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1
        await self._ledger.on_disk(store.part_path(self._id).unlink, missing_ok=True)
        if self._id in store.files:  # now, because `finish` may have been cancelled while the disk was at it
            return
        store.space.give(self.n_bytes + RECORD_BYTES)


def _write_all(handle: int, content: bytes) -> None:
    left = memoryview(content)
    while left:
        left = left[os.write(handle, left) :]
