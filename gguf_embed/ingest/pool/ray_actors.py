"""Embeds a job's texts on the actors of a Ray cluster."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from gguf_embed.embedder.embedder import Embedder
from gguf_embed.errors import EmbedError, EngineFailure
from gguf_embed.ingest.pool.actor_group import CALLS_PER_ACTOR, ActorGroup, NotStarted
from gguf_embed.ingest.pool.base import Embedded, ModelFacts
from gguf_embed.ingest.pool.local import BATCH_TEXTS, LocalPool
from gguf_embed.ingest.pool.own_tokenizer import OwnTokenizer, open_own_tokenizer
from gguf_embed.ingest.pool.ray_cluster import ActorPlan, Cluster
from gguf_embed.types import FloatMatrix, Span

START_S = 600.0
"""How long an actor may take until it is ready: it may have to download a model."""

MAX_TRIES = 3
"""How often a text is tried that ends its process."""

ENDED = "ended the process that embedded it"


@dataclass(frozen=True, slots=True)
class ActorConfig:
    """What an actor loads. Small: each start gets it."""

    model: str | None
    n_threads: int
    prompt: str | None
    dimensions: int | None
    truncate: bool


@dataclass(frozen=True, slots=True)
class Refusal:
    """An `EmbedError` on its way to another process."""

    message: str


class EmbedActor:
    """A `LocalPool` in a process of its own."""

    def __init__(self, config: ActorConfig) -> None:
        self._refusal: Refusal | None = None
        try:
            self._pool = LocalPool(
                self.open_model(config),
                prompt=config.prompt,
                dimensions=config.dimensions,
                truncate=config.truncate,
            )
        except EmbedError as error:
            self._refusal = Refusal(f"on {socket.gethostname()}: {error}")

    @staticmethod
    def open_model(config: ActorConfig) -> Embedder:
        return Embedder(config.model, threads=config.n_threads)

    def facts(self) -> ModelFacts | Refusal:
        return self._refusal or self._pool.facts

    def embed(self, texts: Sequence[str]) -> Embedded | Refusal:
        try:
            return self._pool.embed(texts)
        except EmbedError as error:
            return Refusal(str(error))

    def token_offsets(self, text: str) -> Sequence[Span | None] | Refusal:
        try:
            return self._pool.token_offsets(text)
        except EmbedError as error:
            return Refusal(str(error))


class RayActors:
    """Implements `Actors`: all of them with the same model."""

    def __init__(self, ray: Any, actor_class: type[EmbedActor], plan: ActorPlan, config: ActorConfig) -> None:
        self._ray = ray
        options = {"num_cpus": plan.n_cpus, "max_concurrency": CALLS_PER_ACTOR, "max_restarts": 0}
        self._class = ray.remote(**options)(actor_class)
        self._config = config
        self._lock = threading.Lock()
        self.facts: ModelFacts | None = None  # what the first one said

    def create(self) -> Any:
        return self._class.remote(self._config)

    def wait_ready(self, handle: Any) -> None:
        try:
            found = self._ray.get(handle.facts.remote(), timeout=START_S)
        except self._ray.exceptions.GetTimeoutError:
            raise NotStarted(f"it was not ready within {START_S:.0f} s") from None
        except self._ray.exceptions.RayError as error:
            raise NotStarted(_last_line(error)) from error
        if isinstance(found, Refusal):
            raise NotStarted(found.message, is_final=True)
        with self._lock:
            self.facts = self.facts or found
        if found != self.facts:
            raise NotStarted(
                f"the machines of the Ray cluster have different files of the model {found.name!r}: copy one of them "
                "to all",
                is_final=True,
            )

    def kill(self, handle: Any) -> None:
        self._ray.kill(handle)


class ActorLost(Exception):
    """The actor died, or cannot be reached any more."""


@dataclass(slots=True)
class _Result:
    """What is known of a batch."""

    vectors: FloatMatrix
    failures: dict[int, str] = field(default_factory=dict)
    n_tokens: int = 0

    def add(self, first: int, part: Embedded) -> None:
        self.vectors[first : first + len(part.vectors)] = part.vectors
        self.failures.update({first + index: reason for index, reason in part.failures.items()})
        self.n_tokens += part.n_tokens


class RayPool:
    """Implements `EmbedPool`. An actor that dies is replaced, and its batch is embedded by another one.

    Ray itself restarts and retries nothing: it would repeat a batch that kills its actor until the actor may not be
    restarted any more. Here such a batch is tried again with an actor to itself, then halved until the text is found.
    """

    actor_class: ClassVar[type[EmbedActor]] = EmbedActor
    batch_texts = BATCH_TEXTS

    def __init__(
        self,
        model: str | os.PathLike[str] | None = None,
        *,
        address: str | None = None,
        n_actors: int | None = None,
        prompt: str | None = "document",
        dimensions: int | None = None,
        truncate: bool = False,
    ) -> None:
        """`model`: as for `Embedder`; a file must be at the same path on all machines. `address`: of the cluster; None:
        RAY_ADDRESS, else one on this machine alone. `n_actors`: None for one per machine.

        Raises `ConfigError` if Ray is missing, no cluster answers, or a machine cannot load the model.
        """
        self._tokenizer: OwnTokenizer | None = None
        self._group: ActorGroup | None = None
        self._cluster = Cluster(address)
        try:
            plan = self._cluster.plan(n_actors)
            config = ActorConfig(_name(model), plan.n_threads, prompt, dimensions, truncate)
            actors = RayActors(self._cluster.ray, self.actor_class, plan, config)
            self._group = ActorGroup(plan.n_actors, actors)
            assert actors.facts is not None, "an actor is ready"
            self.facts = actors.facts
            self._tokenizer = open_own_tokenizer(config.model, self.facts.fingerprint)
        except BaseException:
            self.close()
            raise
        self.n_at_once = plan.n_actors * CALLS_PER_ACTOR

    def embed(self, texts: Sequence[str]) -> Embedded:
        result = _Result(np.zeros((len(texts), self.facts.dimensions), np.float32))
        parts = [(0, len(texts))] if texts else []
        while parts:
            first, stop = parts.pop()
            n = stop - first
            part = self._embed_part(texts[first:stop], is_suspect=n < len(texts))
            if part is not None:
                result.add(first, part)
            elif n == 1:
                result.failures[first] = ENDED
            else:
                middle = first + n // 2
                parts += [(middle, stop), (first, middle)]
        return Embedded(result.vectors, dict(sorted(result.failures.items())), result.n_tokens)

    def n_computed(self) -> None:
        """Known only from calls that have ended."""

    def token_offsets(self, text: str) -> Sequence[Span | None]:
        """In this process if it has the model's file, else on an actor."""
        if self._tokenizer is not None:
            return self._tokenizer.token_offsets(text)
        for _ in range(MAX_TRIES):
            try:
                found: Sequence[Span | None] = self._ask("token_offsets", text, alone=False)
                return found
            except ActorLost:
                continue
        raise EngineFailure(f"a text of {len(text):,} characters {ENDED.replace('embedded', 'tokenized')}")

    def close(self) -> None:
        """Ends the actors, and Ray if this pool started it. Calls that are running fail."""
        if self._group is not None:
            self._group.close()
        self._cluster.close()
        if self._tokenizer is not None:
            self._tokenizer.close()

    def _embed_part(self, texts: Sequence[str], *, is_suspect: bool) -> Embedded | None:
        """None if it is this part that ends actors. The first try may share an actor with an innocent call."""
        n_alone = (MAX_TRIES if is_suspect else MAX_TRIES - 1) if len(texts) == 1 else 1
        for alone in [*([] if is_suspect else [False]), *[True] * n_alone]:
            try:
                part: Embedded = self._ask("embed", texts, alone=alone)
                return part
            except ActorLost:
                continue
        return None

    def _ask(self, method: str, argument: Any, *, alone: bool) -> Any:
        """Raises `ActorLost`, or what the actor refuses as an `EngineFailure`."""
        assert self._group is not None, "it was created"
        ray = self._cluster.ray
        with self._group.lease(alone=alone) as member:
            handle = member.handle
            if handle is None:  # it died since
                raise ActorLost
            try:
                found = ray.get(getattr(handle, method).remote(argument))
            except ray.exceptions.RayTaskError as error:
                raise EngineFailure(f"embedding failed on a Ray actor: {_last_line(error)}") from error
            except ray.exceptions.RayError as error:
                self._group.lost(member, handle)
                raise ActorLost from error
        self._group.succeeded()
        if isinstance(found, Refusal):
            raise EngineFailure(found.message)
        return found


def _name(model: str | os.PathLike[str] | None) -> str | None:
    """A file by its absolute path: actors have another current folder."""
    if model is None:
        return None
    return str(Path(model).absolute()) if Path(model).exists() else os.fspath(model)


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
