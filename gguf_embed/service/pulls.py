"""Running downloads. Clients that ask for the same model share one, which continues when one of them leaves."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, field

from gguf_embed.errors import EmbedError, ModelFileError, ModelNotFound, PermissionDenied, PullFailed
from gguf_embed.model_store.hub_errors import HubDenied, NotOnHub
from gguf_embed.types import PullProgress

logger = logging.getLogger(__name__)

PullModel = Callable[[str, Callable[[PullProgress], None]], object]
"""Downloads a model by name and reports its progress. Blocks; raises `EmbedError`."""

MAX_PULLS = 4
"""Downloads that run at the same time; others wait."""


class PullAbandoned(Exception):
    """Raised inside a download that has no watchers left. Never leaves this file."""


@dataclass(slots=True, eq=False)
class _Pull:
    """One download and its watchers. Belongs to the event loop, except that its thread reads `abandoned`."""

    watchers: set[asyncio.Queue[PullProgress | EmbedError | None]] = field(default_factory=set)
    latest: PullProgress | None = None
    abandoned: bool = False

    def publish(self, step: PullProgress | EmbedError | None) -> None:
        """Send one step to all watchers; at the end, None or the error."""
        if isinstance(step, PullProgress):
            self.latest = step
        for watcher in self.watchers:
            watcher.put_nowait(step)


class Pulls:
    """Runs downloads on its own threads. Belongs to one event loop."""

    def __init__(self, pull_model: PullModel) -> None:
        self._pull_model = pull_model
        self._running: dict[str, _Pull] = {}
        self._turns = threading.Semaphore(MAX_PULLS)

    async def watch(self, name: str) -> AsyncIterator[PullProgress]:
        """Start a download, or join the running one, and yield its steps. Raises its `EmbedError`.

        The download stops when its last watcher leaves; a partial file is kept for the next attempt.
        """
        pull = self._running.get(name)
        if pull is None or pull.abandoned:
            pull = self._start(name)
        steps: asyncio.Queue[PullProgress | EmbedError | None] = asyncio.Queue()
        if pull.latest is not None:
            steps.put_nowait(pull.latest)
        pull.watchers.add(steps)
        try:
            while (step := await steps.get()) is not None:
                if isinstance(step, EmbedError):
                    raise step
                yield step
        finally:
            pull.watchers.discard(steps)
            if not pull.watchers:
                pull.abandoned = True

    def _start(self, name: str) -> _Pull:
        pull = self._running[name] = _Pull()
        loop = asyncio.get_running_loop()

        def progress(step: PullProgress) -> None:
            if pull.abandoned:
                raise PullAbandoned
            loop.call_soon_threadsafe(pull.publish, step)

        def finish(outcome: EmbedError | None) -> None:
            if self._running.get(name) is pull:
                del self._running[name]
            pull.publish(outcome)

        def run() -> None:
            with self._turns:
                outcome = self._run(name, progress)
            with suppress(RuntimeError):  # the loop is closed, so there are no watchers
                loop.call_soon_threadsafe(finish, outcome)

        # a daemon, so that a hub that does not answer cannot delay the end of the process
        threading.Thread(target=run, name=f"pull {name}", daemon=True).start()
        return pull

    def _run(self, name: str, progress: Callable[[PullProgress], None]) -> EmbedError | None:
        """Runs on the download's thread. Returns the error, if any."""
        try:
            self._pull_model(name, progress)
        except PullAbandoned:
            return None
        except NotOnHub as error:
            return ModelNotFound(error.message)
        except HubDenied as error:
            return PermissionDenied(error.message)
        except ModelFileError as error:
            return PullFailed(error.message)
        except EmbedError as error:
            return error
        except Exception as error:
            logger.exception("pulling %s failed", name)
            return PullFailed(f"cannot pull {name} ({type(error).__name__}): see the server's log for details")
        return None

    def close(self) -> None:
        """Stop all downloads at their next step."""
        for pull in self._running.values():
            pull.abandoned = True
