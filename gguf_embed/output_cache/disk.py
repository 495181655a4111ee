"""Rows on the disk, in an SQLite file that several servers may share. A cache: whatever fails, it only finds less."""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import TypeVar

from gguf_embed.errors import ConfigError, WayOut

_T = TypeVar("_T")
logger = logging.getLogger(__name__)

FILE_NAME = "outputs-1.sqlite"
"""The number is that of the format."""

PATIENCE_S = 0.05
"""A request waits no longer for the disk than this, and otherwise computes."""

BUSY_S = 0.2
"""How long a write waits for another server that writes, before it is given up."""

MAX_PENDING_BYTES = 16 * 2**20
"""More rows than this are not queued for a slow disk."""

MIN_EVICTED = 16
"""As many rows at least are removed at a time."""

USED_RESOLUTION_S = 600
"""When a row was used last is written no more often than this."""

CHECK_BYTES = 8
MAX_KEYS = 500  # in one statement

_SCHEMA = """
PRAGMA page_size = 16384;
PRAGMA auto_vacuum = INCREMENTAL;
PRAGMA journal_mode = WAL;
PRAGMA synchronous = NORMAL;
PRAGMA journal_size_limit = 4194304;
PRAGMA wal_autocheckpoint = 256;
CREATE TABLE IF NOT EXISTS outputs (
    key BLOB PRIMARY KEY, used_unix_s INTEGER NOT NULL, row BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS by_use ON outputs (used_unix_s);
"""


class DiskRows:
    """Bytes by key, bounded in size. All work happens on one thread; `read` and `write` belong to an event loop."""

    def __init__(
        self, folder: Path, max_bytes: int, clock: Callable[[], float] = time.time, patience_s: float = PATIENCE_S
    ) -> None:
        """Open or create the file. One that is damaged is replaced. Raises `ConfigError` if there can be none."""
        self._patience_s = patience_s
        self._path = folder / FILE_NAME
        self._max_bytes = max_bytes
        self._clock = clock
        self._pending_bytes = 0  # belongs to the event loop
        self._has_failed = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="cache-disk")
        try:
            self._database = self._thread.submit(self._open).result()
        except (OSError, sqlite3.Error) as error:
            self._thread.shutdown()
            raise ConfigError(f"{self._path} cannot be used as a cache: {error}", [WayOut.OTHER_CACHE]) from error

    def _open(self) -> sqlite3.Connection:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        try:
            return self._connect()
        except sqlite3.OperationalError:
            raise  # locked, or not writable: not a reason to remove it
        except sqlite3.DatabaseError as error:
            logger.warning("%s is damaged (%s): it is replaced by an empty cache", self._path, error)
            for suffix in ("", "-wal", "-shm"):
                self._path.with_name(FILE_NAME + suffix).unlink(missing_ok=True)
            return self._connect()

    def _connect(self) -> sqlite3.Connection:
        os.close(os.open(self._path, os.O_CREAT | os.O_RDWR, 0o600))  # vectors are as private as their texts
        database = sqlite3.connect(self._path, timeout=BUSY_S, isolation_level=None)
        try:
            database.executescript(_SCHEMA)
        except sqlite3.Error:
            database.close()
            raise
        return database

    async def read(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """The rows that are stored; none if the disk does not answer in time."""
        future = self._thread.submit(self._guarded, lambda: self._select(keys), {})
        done, _ = await asyncio.wait([asyncio.wrap_future(future)], timeout=self._patience_s)
        if not done:
            future.cancel()
            return {}
        return future.result()

    def write(self, rows: Mapping[bytes, bytes]) -> None:
        """Store rows later. They are given up if too many wait already."""
        n_bytes = sum(map(len, rows.values()))
        if self._pending_bytes + n_bytes > MAX_PENDING_BYTES:
            return
        self._pending_bytes += n_bytes
        loop = asyncio.get_running_loop()
        future = self._thread.submit(self._guarded, lambda: self._insert(rows), None)

        def written(_future: Future[None]) -> None:
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(self._count_written, n_bytes)

        future.add_done_callback(written)

    def _count_written(self, n_bytes: int) -> None:
        self._pending_bytes -= n_bytes

    def _guarded(self, work: Callable[[], _T], otherwise: _T) -> _T:
        """On the thread: a lock of another server is not worth a word; another failure is logged once."""
        try:
            return work()
        except sqlite3.Error as error:
            if not self._has_failed and getattr(error, "sqlite_errorname", "") != "SQLITE_BUSY":
                self._has_failed = True
                logger.warning("the cache in %s fails: %s", self._path, error)
            return otherwise

    def _select(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        now_s = int(self._clock())
        found: dict[bytes, bytes] = {}
        aged: list[bytes] = []
        for begin in range(0, len(keys), MAX_KEYS):
            part = keys[begin : begin + MAX_KEYS]
            marks = ",".join("?" * len(part))
            query = f"SELECT key, used_unix_s, row FROM outputs WHERE key IN ({marks})"
            for key, used_s, stored in self._database.execute(query, part):
                row = _checked(key, stored)
                if row is not None:
                    found[key] = row
                if now_s - used_s >= USED_RESOLUTION_S:
                    aged.append(key)
        if aged:
            self._run("UPDATE outputs SET used_unix_s = ? WHERE key = ?", [(now_s, key) for key in aged])
        return found

    def _insert(self, rows: Mapping[bytes, bytes]) -> None:
        now_s = int(self._clock())
        stored = [(key, now_s, _check(key, row) + row) for key, row in rows.items()]
        self._run("INSERT OR REPLACE INTO outputs VALUES (?, ?, ?)", stored)
        n_evicted = max(MIN_EVICTED, 2 * len(stored))
        oldest = "DELETE FROM outputs WHERE key IN (SELECT key FROM outputs ORDER BY used_unix_s LIMIT ?)"
        while self._used_bytes() > self._max_bytes and self._database.execute(oldest, (n_evicted,)).rowcount > 0:
            pass
        if self._pragma("freelist_count"):
            self._database.executescript("PRAGMA incremental_vacuum")  # `execute` would free a single page

    def _run(self, statement: str, rows: Sequence[tuple[object, ...]]) -> None:
        self._database.execute("BEGIN IMMEDIATE")
        try:
            self._database.executemany(statement, rows)
        except sqlite3.Error:
            self._database.execute("ROLLBACK")
            raise
        self._database.execute("COMMIT")

    def _used_bytes(self) -> int:
        return (self._pragma("page_count") - self._pragma("freelist_count")) * self._pragma("page_size")

    def _pragma(self, name: str) -> int:
        return int(self._database.execute(f"PRAGMA {name}").fetchone()[0])

    def close(self) -> None:
        """Write what waits, and close the file. Blocks."""
        self._thread.submit(self._database.close).result()
        self._thread.shutdown()


def _check(key: bytes, row: bytes) -> bytes:
    return blake2b(row, digest_size=CHECK_BYTES, key=key).digest()


def _checked(key: bytes, stored: bytes) -> bytes | None:
    """The row, unless its bytes are not those that were written."""
    row = stored[CHECK_BYTES:]
    return row if stored[:CHECK_BYTES] == _check(key, row) else None
