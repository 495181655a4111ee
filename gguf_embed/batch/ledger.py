"""The store of one event loop: its changes run on one thread, one after the other."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from gguf_embed.batch.records import Batch
from gguf_embed.batch.store import Store

_T = TypeVar("_T")
_P = ParamSpec("_P")


class Ledger:
    """Reads are plain attributes of `store`; every write goes through here."""

    def __init__(self, store: Store, clock: Callable[[], float]) -> None:
        """`clock`: seconds since 1970."""
        self.store = store
        self.clock = clock
        self._turn = asyncio.Lock()
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="batch-disk")

    @property
    def now_s(self) -> int:
        return int(self.clock())

    async def on_disk(self, work: Callable[_P, _T], *arguments: _P.args, **named: _P.kwargs) -> _T:
        """Run work on the thread of the disk. It ends even if the caller is cancelled."""
        running = asyncio.get_running_loop().run_in_executor(self._disk, lambda: work(*arguments, **named))
        return await asyncio.shield(running)

    async def change(self, batch_id: str, step: Callable[[Batch], Batch]) -> Batch:
        """Store what `step` makes of a batch. No other change comes between. Raises what `step` raises."""
        async with self._turn:
            before = self.store.batches[batch_id]
            after = step(before)
            if after is not before:
                await self.on_disk(self.store.save_batch, after)
            return after

    async def close(self) -> None:
        await asyncio.to_thread(self._disk.shutdown)
        self.store.close()


def new_id(prefix: str) -> str:
    """A new id: "file-" or "batch_", and 32 random hexadecimal digits."""
    return prefix + secrets.token_hex(16)
