"""Which actor gets the next call, and what happens when one dies. Knows nothing of Ray."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from gguf_embed.errors import ConfigError, EngineFailure, Unavailable

CALLS_PER_ACTOR = 2
"""At once: one is computed while the other one is sent, tokenized or received."""

MAX_STARTS = 3
"""How often an actor is started that does not get ready. After that, the others go on without it."""

MAX_LOSSES = 30
"""How many calls may end their actor, one after the other with none between that succeeds. Finding the text among 256
that does it takes 12."""

CLOSE_S = 30.0

_log = logging.getLogger("gguf_embed.ingest")


class NotStarted(Exception):
    """An actor did not get ready. `is_final`: it never will, because it was refused what it needs."""

    def __init__(self, reason: str, *, is_final: bool = False) -> None:
        super().__init__(reason)
        self.is_final = is_final


class Actors(Protocol):
    """How actors are made. Any thread."""

    def create(self) -> Any:
        """The handle of a new actor, at once. Raises `NotStarted`."""
        ...

    def wait_ready(self, handle: Any) -> None:
        """Raises `NotStarted`."""
        ...

    def kill(self, handle: Any) -> None: ...


@dataclass(slots=True, eq=False)
class Member:
    """One actor, and those that replace it after it died."""

    handle: Any = None  # None: it is being started, or it is lost
    new_handle: Any = None  # of the actor that is being started
    n_running: int = 0
    is_held: bool = False  # by a call that has it to itself, or waits for that
    n_failed_starts: int = 0

    @property
    def is_lost(self) -> bool:
        return self.n_failed_starts >= MAX_STARTS


class ActorGroup:
    """Thread-safe."""

    def __init__(self, n_actors: int, actors: Actors) -> None:
        """Waits for all of them. Raises `ConfigError` if one is refused what it needs, and `EngineFailure` if none is
        ready.
        """
        self._actors = actors
        self._changed = threading.Condition()
        self._is_closed = False
        self._n_starting = 0
        self._n_losses = 0
        self._reason = ""
        self._refusal = ""
        self._members = [Member() for _ in range(n_actors)]
        for member in self._members:
            self._begin_start(member)
        try:
            with self._changed:
                self._changed.wait_for(lambda: not self._n_starting)
            if self._refusal:
                raise ConfigError(self._refusal)
            self._check()
        except BaseException:
            self.close()
            raise

    @contextmanager
    def lease(self, *, alone: bool) -> Iterator[Member]:
        """The idlest actor, when there is one; `alone`: with no other call on it. Its handle is set.

        Raises `EngineFailure` if all are lost, `Unavailable` after `close`.
        """
        member = self._take_alone() if alone else self._take()
        try:
            yield member
        finally:
            self._release(member, alone)

    def succeeded(self) -> None:
        """A call did not end its actor."""
        self._n_losses = 0

    def lost(self, member: Member, handle: Any) -> None:
        """This handle's actor died. Another one is started in the background."""
        with self._changed:
            if member.handle is not handle or self._is_closed:
                return
            self._n_losses += 1
            member.handle = None
            self._begin_start(member)
        self._actors.kill(handle)  # it may live, and only be out of reach

    def close(self) -> None:
        """Kills all actors, and waits until no thread of this group or call on it runs."""
        with self._changed:
            self._is_closed = True
            handles = [handle for member in self._members for handle in (member.handle, member.new_handle)]
            self._changed.notify_all()
        for handle in handles:
            if handle is not None:
                self._actors.kill(handle)
        with self._changed:
            is_done = self._changed.wait_for(
                lambda: not self._n_starting and not any(member.n_running for member in self._members), CLOSE_S
            )
        if not is_done:
            _log.warning("calls on Ray actors have not ended %.0f s after they were killed", CLOSE_S)

    @property
    def is_closed(self) -> bool:
        return self._is_closed

    def _take(self) -> Member:
        with self._changed:
            while True:
                self._check()
                free = [
                    member
                    for member in self._members
                    if member.handle is not None and not member.is_held and member.n_running < CALLS_PER_ACTOR
                ]
                if free:
                    member = min(free, key=lambda member: member.n_running)
                    member.n_running += 1
                    return member
                self._changed.wait()

    def _take_alone(self) -> Member:
        while True:
            with self._changed:
                member = self._take()
                member.is_held = True
                while not (self._is_closed or member.is_lost):
                    if member.handle is not None and member.n_running == 1:
                        return member
                    self._changed.wait()
            self._release(member, True)  # then `_take` says why, or finds another one

    def _release(self, member: Member, alone: bool) -> None:
        with self._changed:
            member.n_running -= 1
            if alone:
                member.is_held = False
            self._changed.notify_all()

    def _check(self) -> None:
        if self._is_closed:
            raise Unavailable("this pool of Ray actors is closed")
        if all(member.is_lost for member in self._members):
            raise EngineFailure(f"no Ray actor is left: {self._reason}")
        if self._n_losses >= MAX_LOSSES:
            raise EngineFailure(
                f"{self._n_losses} calls ended the Ray actor that they ran on, one after the other: the machines have "
                "too little memory, or the model does not run on them"
            )

    def _begin_start(self, member: Member) -> None:
        self._n_starting += 1
        threading.Thread(target=self._run_start, args=(member,), name="ingest-actor", daemon=True).start()

    def _run_start(self, member: Member) -> None:
        try:
            while not self._is_closed and not member.is_lost and member.handle is None:
                self._try_start(member)
        finally:
            with self._changed:
                self._n_starting -= 1
                self._changed.notify_all()

    def _try_start(self, member: Member) -> None:
        """Leaves no actor behind that has no handle."""
        try:
            with self._changed:
                if self._is_closed:
                    return
                member.new_handle = self._actors.create()
            self._actors.wait_ready(member.new_handle)
        except NotStarted as error:
            self._note_failure(member, str(error), error.is_final)
        except Exception as error:
            self._note_failure(member, f"{type(error).__name__}: {error}", True)
        else:
            with self._changed:
                if not self._is_closed:
                    member.handle, member.n_failed_starts = member.new_handle, 0
        finally:
            with self._changed:
                unused = member.new_handle if member.handle is None else None
                member.new_handle = None
            if unused is not None:
                self._actors.kill(unused)

    def _note_failure(self, member: Member, reason: str, is_final: bool) -> None:
        with self._changed:
            if self._is_closed:
                return
            member.n_failed_starts = MAX_STARTS if is_final else member.n_failed_starts + 1
            self._reason = reason
            if is_final:
                self._refusal = reason
        _log.warning("a Ray actor did not start: %s", reason)
