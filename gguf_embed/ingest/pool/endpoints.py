"""Embeds a job's texts on one or several servers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from gguf_embed.embedder.endpoint import Endpoint
from gguf_embed.embedder.endpoint_errors import Refused, RefusedByEngine
from gguf_embed.embedder.endpoint_replies import EmbedReply, cut
from gguf_embed.embedder.facts import Vector
from gguf_embed.embedder.lanes import Blamed, Lane, Lanes
from gguf_embed.embedder.loop_thread import LoopThread
from gguf_embed.embedder.prompts import prefix_of, task_of
from gguf_embed.embedder.server_facts import ServerFacts
from gguf_embed.embedder.token_offsets import PART_CHARACTERS, parts
from gguf_embed.errors import ConfigError, EmbedError
from gguf_embed.ingest.pool.base import Embedded, ModelFacts
from gguf_embed.ingest.rows import PROBE_TEXTS
from gguf_embed.types import FloatMatrix, Span

GIVE_UP_S = 600.0
START_PATIENCE_S = 10.0
BATCH_TEXTS = 128
SAME_MODEL = 0.999  # cosine of two servers' vectors of one text


@dataclass(frozen=True, slots=True)
class EndpointOptions:
    """How texts are sent to the servers."""

    model: str | None = None
    api_key: str | None = field(default=None, repr=False)
    prompt: str | None = "document"
    prompts: Mapping[str, str] = field(default_factory=dict)  # texts that `prompt` can name, besides the server's own
    dimensions: int | None = None
    truncate: bool = False
    n_at_once: int = 4  # requests in flight per server
    timeout_s: float = 120.0  # of one request
    give_up_s: float = GIVE_UP_S  # how long nothing may succeed


class EndpointPool:
    """Implements `EmbedPool`. A busy or dead server is left alone for a while, and the others do its work."""

    def __init__(self, urls: Sequence[str], options: EndpointOptions = EndpointOptions()) -> None:
        """Asks the servers for the model. One of them must answer within ten seconds.

        Raises `ConfigError` for a wrong URL or servers with different models, `Unavailable`, and what they refuse.
        """
        if not urls:
            raise ConfigError("give at least one URL of a server")
        self._options = options
        endpoints = [
            Endpoint(url, model=options.model, api_key=options.api_key, timeout_s=options.timeout_s)
            for url in dict.fromkeys(urls)
        ]
        self._lanes = Lanes(endpoints, options.n_at_once, min(START_PATIENCE_S, options.give_up_s))
        self._probe: Vector | None = None
        self._tokenizes = True
        self._task: str | None = None
        self._loop = LoopThread("EndpointPool", self._lanes.close)
        try:
            self.facts, n_texts = self._loop.run(self._start)
        except BaseException:
            self.close()
            raise
        self._lanes.give_up_s = options.give_up_s
        self.n_at_once = options.n_at_once * len(endpoints)
        self.batch_texts = min(BATCH_TEXTS, n_texts or BATCH_TEXTS)

    def embed(self, texts: Sequence[str]) -> Embedded:
        if not texts:
            return Embedded(np.zeros((0, self.facts.dimensions), np.float32))
        return self._loop.run(lambda: self._embed(texts))

    def n_computed(self) -> None:
        """Known only from calls that have ended."""

    def token_offsets(self, text: str) -> Sequence[Span | None] | None:
        """Of servers that tell offsets: ours and TEI."""
        if not self._tokenizes:
            return None
        return self._loop.run(lambda: self._token_offsets(text))

    def close(self) -> None:
        """Does not wait for replies."""
        self._loop.begin_close(cancel=True)
        self._loop.close()

    async def _start(self) -> tuple[ModelFacts, int | None]:
        facts = await self._facts()
        assert self._probe is not None, "a server was checked"
        try:
            await self._lanes.send(lambda endpoint: endpoint.token_offsets(["a"]), self._check)
        except (EmbedError, Blamed):
            self._tokenizes = False
        self._task = task_of(self._options.prompt, self._options.prompts, facts)
        found = ModelFacts(
            name=facts.name or self._options.model or "",
            fingerprint=facts.fingerprint,
            dimensions=len(self._probe),
            pooling=facts.pooling,
            normalized=abs(float(np.linalg.norm(self._probe)) - 1.0) < 1e-3,
            prompt=prefix_of(self._options.prompt, self._options.prompts, facts.prompts),
            max_tokens=facts.max_tokens,
        )
        return found, facts.max_batch_texts

    async def _check(self, lane: Lane) -> None:
        """Raises `ConfigError` if a server has another model than the first one that answered."""
        try:
            found = (await self._request(lane.endpoint, PROBE_TEXTS[:1])).vectors[0]
        except (Refused, RefusedByEngine) as error:
            raise ConfigError(f"a first text was refused: {error.message}") from None
        if self._probe is None:
            self._probe = found
        scale = float(np.linalg.norm(found) * np.linalg.norm(self._probe))
        if len(found) != len(self._probe) or float(found @ self._probe) < SAME_MODEL * scale:
            raise ConfigError(
                f"{lane.endpoint.shown} gives other vectors than {self._lanes.all[0].endpoint.shown}: all servers of "
                "a job must have the same model"
            )

    async def _request(self, endpoint: Endpoint, texts: Sequence[str], task: str | None = None) -> EmbedReply:
        options = self._options
        return await endpoint.embed(texts, dimensions=options.dimensions, truncate=options.truncate, task=task)

    async def _embed(self, texts: Sequence[str]) -> Embedded:
        prefix, n_dims, task = "" if self._task else self.facts.prompt, self.facts.dimensions, self._task
        given = [prefix + text for text in texts] if prefix else list(texts)
        vectors: FloatMatrix = np.zeros((len(given), n_dims), np.float32)
        failures: dict[int, str] = {}
        n_tokens = 0

        async def fill(first: int, stop: int) -> None:
            """Embed some of the texts; if a server refuses them, half of them at a time."""
            nonlocal n_tokens
            try:
                part = given[first:stop]
                reply = await self._lanes.send(lambda endpoint: self._request(endpoint, part, task), self._check)
            except (Refused, RefusedByEngine, Blamed) as error:
                if stop - first == 1:
                    failures[first] = _reason(str(error))
                    return
                middle = (first + stop) // 2
                await fill(first, middle)
                await fill(middle, stop)
                return
            vectors[first:stop] = cut(reply.vectors, self._options.dimensions)
            n_tokens += reply.n_tokens

        await fill(0, len(given))
        return Embedded(vectors, dict(sorted(failures.items())), n_tokens)

    async def _token_offsets(self, text: str) -> list[Span | None]:
        found: list[Span | None] = []
        for start, end in parts(text, PART_CHARACTERS):
            spans = await self._part_offsets(text[start:end])
            found += [span and (span[0] + start, span[1] + start) for span in spans]
        return found

    async def _part_offsets(self, part: str) -> list[Span | None]:
        try:
            return (await self._lanes.send(lambda endpoint: endpoint.token_offsets([part]), self._check))[0]
        except Blamed as blamed:
            raise blamed.error from None

    async def _facts(self) -> ServerFacts:
        try:
            return await self._lanes.send(lambda endpoint: endpoint.facts(), self._check)
        except Blamed:  # it embeds, and fails on what is not a route of all servers
            return ServerFacts()


def _reason(message: str) -> str:
    """Continues a sentence that begins with the text's place; the server counts within its request."""
    return f"was refused by {message.replace(': input 0 is', ': it is', 1)}"
