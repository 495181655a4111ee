"""The bytes and files that are taken in the folder of batches, and how many of them one owner may take."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from gguf_embed.batch.errors import StorageFull
from gguf_embed.batch.records import BatchLimits

LEFT_TO_OTHERS = 8
"""One in so many bytes and files is left to the other keys while they have none."""


@dataclass(slots=True)
class Use:
    """What is taken: by one owner, or by several together. Uploads under way are files, too."""

    n_bytes: int = 0
    n_files: int = 0


def owner_share(limit: int, is_shared: bool, others: int) -> int:
    """How much of `limit` one owner may have. `is_shared`: several keys may use it. `others`: what they have."""
    if others > 0:
        return limit // 2
    return limit - limit // LEFT_TO_OTHERS if is_shared else limit


def bytes_refusal(limits: BatchLimits, mine: int, others: int) -> str | None:
    """Why one owner may not have `mine` bytes, or None. `others`: what all other owners have."""
    limit, share = limits.max_total_bytes, owner_share(limits.max_total_bytes, limits.is_shared, others)
    way_out = "delete some, or start the server with a larger --batch-max-bytes"
    if mine + others > limit:
        return (
            f"the files of batches would have {mine + others:,} bytes, and the limit for all of them is {limit:,}: "
            f"{way_out}"
        )
    if mine > share:
        return (
            f"the files of this key would have {mine:,} bytes, and of the {limit:,} for all keys it may have {share:,} "
            f"at present: {way_out}"
        )
    return None


def files_refusal(limits: BatchLimits, mine: int, others: int) -> str | None:
    """Why one owner may not have `mine` files, or None. `others`: what all other owners have."""
    limit, share = limits.max_files, owner_share(limits.max_files, limits.is_shared, others)
    if mine + others > limit:
        return f"there are {limit} files, which is the limit: delete some"
    if mine > share:
        return f"this key may have {share} files at present, of the {limit} for all keys: delete some"
    return None


@dataclass(slots=True)
class Space:
    """What is taken in the folder, by owner. For any thread."""

    folder: Path
    limits: BatchLimits
    _uses: dict[str, Use] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def used_bytes(self) -> int:
        with self._lock:
            return sum(use.n_bytes for use in self._uses.values())

    def take(self, owner: str, n_bytes: int, n_files: int = 0) -> None:
        """Raises `StorageFull` beyond a limit, or if the disk would be nearly full."""
        if n_bytes > 0 and shutil.disk_usage(self.folder).free - n_bytes < self.limits.min_free_bytes:
            raise StorageFull("the server's disk is nearly full: delete files, or free some space on it")
        with self._lock:
            before = self._uses.get(owner, Use())
            after = Use(before.n_bytes + n_bytes, before.n_files + n_files)
            others = [use for name, use in self._uses.items() if name != owner]
            refused = None
            if n_files > 0:
                refused = files_refusal(self.limits, after.n_files, sum(use.n_files for use in others))
            if n_bytes > 0 and refused is None:
                refused = bytes_refusal(self.limits, after.n_bytes, sum(use.n_bytes for use in others))
            if refused is not None:
                raise StorageFull(refused)
            self._uses[owner] = after

    @contextmanager
    def taken(self, owner: str, n_bytes: int, n_files: int = 0) -> Iterator[None]:
        """`take`, and give back if the block raises."""
        self.take(owner, n_bytes, n_files)
        try:
            yield
        except BaseException:
            self.give(owner, n_bytes, n_files)
            raise

    def add(self, owner: str, n_bytes: int, n_files: int = 0) -> None:
        """Take without a check."""
        with self._lock:
            use = self._uses.get(owner, Use())
            self._uses[owner] = Use(use.n_bytes + n_bytes, use.n_files + n_files)

    def give(self, owner: str, n_bytes: int, n_files: int = 0) -> None:
        """Of what was taken."""
        self.add(owner, -n_bytes, -n_files)
