"""Several awaitable calls, a few at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

_T = TypeVar("_T")


async def run_several(calls: Sequence[Callable[[], Awaitable[_T]]], n_at_once: int) -> list[_T]:
    """Their results, in order. The first error cancels the rest, and is raised when all have ended."""
    if len(calls) == 1:
        return [await calls[0]()]
    turns = asyncio.Semaphore(n_at_once)

    async def run(call: Callable[[], Awaitable[_T]]) -> _T:
        async with turns:
            return await call()

    tasks = [asyncio.ensure_future(run(call)) for call in calls]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
