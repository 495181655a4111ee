"""`Client`: a model on a server."""

from __future__ import annotations

import asyncio
import functools
import random
import weakref
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

import numpy as np

from gguf_embed.embedder.endpoint import Endpoint
from gguf_embed.embedder.endpoint_errors import Temporary, Trouble
from gguf_embed.embedder.endpoint_replies import cut
from gguf_embed.embedder.facts import Info, SparseVector, Vector
from gguf_embed.embedder.loop_thread import LoopThread
from gguf_embed.embedder.methods import EmbedOptions, TextModel
from gguf_embed.embedder.prompts import needs_server, prefix_of, prompt_choice, task_of
from gguf_embed.embedder.server_facts import ServerFacts
from gguf_embed.embedder.slices import in_slices
from gguf_embed.errors import ConfigError, NotSupported, Overloaded, Unavailable
from gguf_embed.preprocessing import prompt_prefixes
from gguf_embed.types import FloatMatrix, Muvera

_T = TypeVar("_T")

SMALL_TEXTS = 32
"""So many texts fit into one request to any server: TEI's default limit."""

BATCH_TEXTS = 256
REQUESTS_AT_ONCE = 4
FIRST_WAIT_S = 0.5
MAX_BACKOFF_S = 8.0
MAX_WAIT_S = 60.0
"""If a server wants a longer pause, that is the caller's decision."""

MAX_RETRIES_UNREACHABLE = 2  # a server that is not there should be noticed soon


class Client(TextModel):
    """A model behind OpenAI's `/v1/embeddings`: of `gguf-embed serve`, llama-server, TEI, OpenAI and others.

    See `TextModel` for the methods. It owns one thread with an event loop, which ends with `close`.

    What a server does not have raises `NotSupported`. A busy server is asked again after the time that it names; so is
    one that fails, or whose reply is broken, up to `max_retries` times. The key is in no message.
    """

    def __init__(
        self,
        base_url: str,
        *,
        model: str | None = None,
        api_key: str | None = None,
        timeout_s: float = 60.0,
        max_retries: int = 5,
        prompts: Mapping[str, str] | None = None,
    ) -> None:
        """`base_url` is like "http://127.0.0.1:8080" or "https://api.openai.com/v1". `model`: None if it has only
        one.

        `timeout_s` is for one request. `prompts`: texts that `prompt=` can name, besides those that our own server
        tells; the client puts them before the texts. Nothing is sent before the first call. Raises `ConfigError`.
        """
        if timeout_s <= 0 or max_retries < 0:
            raise ConfigError("timeout_s must be above 0, and max_retries at least 0")
        self._endpoint = Endpoint(base_url, model=model, api_key=api_key, timeout_s=timeout_s)
        self._max_retries = max_retries
        self._prompts = dict(prompts or {})
        self._facts: ServerFacts | None = None
        self._known: Info | None = None
        self._loop = LoopThread("Client", self._endpoint.close)
        self._finalizer = weakref.finalize(self, self._loop.begin_close)
        self._finalizer.atexit = False

    def __repr__(self) -> str:
        model = "" if self._endpoint.model is None else f", model {self._endpoint.model!r}"
        return f"<Client {self._endpoint.shown}{model}>"

    async def _embed(self, texts: Sequence[str], options: EmbedOptions) -> FloatMatrix:
        if options.normalize is False:
            raise NotSupported(
                "servers normalize vectors on /v1/embeddings, so normalize=False is not possible: use an Embedder"
            )
        if not texts:
            return np.empty((0, options.dimensions or (await self._info()).dimensions), np.float32)
        task = await self._task(options.prompt)
        prefix = "" if task is not None else await self._prefix(options.prompt)
        given = [prefix + text for text in texts] if prefix else texts
        n_texts = await self._batch_texts(len(texts))

        async def request(part: Sequence[str]) -> FloatMatrix:
            reply = await self._patiently(
                lambda: self._endpoint.embed(part, dimensions=options.dimensions, truncate=options.truncate, task=task)
            )
            return cut(reply.vectors, options.dimensions, normalize=bool(options.normalize))

        found = await in_slices(given, n_texts, REQUESTS_AT_ONCE, request)
        return found[0] if len(found) == 1 else np.concatenate(found)

    async def _task(self, prompt: str | None) -> str | None:
        if not needs_server(prompt, self._prompts):
            return None
        return task_of(prompt, self._prompts, await self._server_facts())

    async def _prefix(self, prompt: str | None) -> str:
        own = (await self._server_facts()).prompts if needs_server(prompt, self._prompts) else {}
        return prefix_of(prompt, self._prompts, own)

    async def _embed_multivector(self, texts: Sequence[str], options: EmbedOptions) -> list[FloatMatrix]:
        return await self._of_head(texts, options, self._endpoint.multivectors)

    async def _embed_muvera(self, texts: Sequence[str], options: EmbedOptions, settings: Muvera) -> FloatMatrix:
        found = await self._of_head(texts, options, functools.partial(self._endpoint.muvera, settings))
        return np.stack(found) if found else np.empty((0, settings.n_dims), np.float32)

    async def _embed_sparse(self, texts: Sequence[str], options: EmbedOptions) -> list[SparseVector]:
        return await self._of_head(texts, options, self._endpoint.sparse)

    async def _of_head(
        self,
        texts: Sequence[str],
        options: EmbedOptions,
        send: Callable[[Sequence[str], Mapping[str, object]], Awaitable[list[_T]]],
    ) -> list[_T]:
        """What our own server gives for each text. It is told a prompt's name: it may read queries otherwise."""
        if not texts:
            return []
        choice = prompt_choice(options.prompt, self._prompts)
        fields: dict[str, object] = {} if options.dimensions is None else {"dimensions": options.dimensions}
        fields["truncate"] = options.truncate
        if choice is not None and choice.name is not None and choice.name not in self._prompts:
            fields["input_type"] = choice.name
        elif choice is not None:
            fields["prompt"] = choice.text or self._prompts[choice.name or ""]

        async def request(part: Sequence[str]) -> list[_T]:
            return await self._patiently(lambda: send(part, fields))

        found = await in_slices(texts, await self._batch_texts(len(texts)), REQUESTS_AT_ONCE, request)
        return [vector for part in found for vector in part]

    async def _batch_texts(self, n_texts: int) -> int:
        """How many of so many texts one request may have."""
        if n_texts <= SMALL_TEXTS:
            return SMALL_TEXTS
        return min(BATCH_TEXTS, (await self._server_facts()).max_batch_texts or BATCH_TEXTS)

    async def _rerank(self, query: str, documents: Sequence[str]) -> Vector:
        if not documents:
            return np.empty(0, np.float32)
        return await self._patiently(lambda: self._endpoint.rerank(query, documents))

    async def _tokenize(self, text: str) -> list[int]:
        return await self._patiently(lambda: self._endpoint.tokenize(text))

    async def _server_facts(self) -> ServerFacts:
        if self._facts is None:
            self._facts = await self._patiently(self._endpoint.facts)
        return self._facts

    async def _info(self) -> Info:
        if self._known is None:
            facts = await self._server_facts()
            reply = await self._patiently(lambda: self._endpoint.embed(["dimensions"]))
            self._known = Info(
                name=facts.name or reply.model or self._endpoint.model or "",
                dimensions=reply.vectors.shape[1],
                max_tokens=facts.max_tokens,
                pooling=facts.pooling,
                prompts=prompt_prefixes.profile(self._prompts, facts.prompts, {}),
                find_fingerprint=lambda: facts.fingerprint,
            )
        return self._known

    async def _patiently(self, attempt: Callable[[], Awaitable[_T]]) -> _T:
        """Try again after what is temporary. Raises `Overloaded` or `Unavailable` in the end."""
        n_tries = 0
        while True:
            try:
                return await attempt()
            except Temporary as error:
                n_tries += 1
                pause_s = wait_s(error, n_tries)
                is_last = n_tries > self._max_retries or (
                    error.trouble is Trouble.UNREACHABLE and n_tries > MAX_RETRIES_UNREACHABLE
                )
                if is_last or pause_s > MAX_WAIT_S:
                    raise _final(error, n_tries) from None
            await asyncio.sleep(pause_s)


def wait_s(error: Temporary, n_tries: int) -> float:
    """How long to wait after so many failed tries: what the server says, else twice as long each time."""
    backoff_s = min(MAX_BACKOFF_S, FIRST_WAIT_S * 2.0 ** (n_tries - 1)) * random.uniform(0.75, 1.25)
    return backoff_s if error.retry_after_s is None else error.retry_after_s + random.uniform(0.0, 0.1)


def _final(error: Temporary, n_tries: int) -> Unavailable | Overloaded:
    message = error.message if n_tries == 1 else f"{error.message}; tried {n_tries} times"
    if error.trouble is Trouble.UNREACHABLE:
        return Unavailable(f"{message}; start a server there, or correct the URL")
    if error.trouble is Trouble.FAILED:
        return Unavailable(message)
    if error.retry_after_s is None:
        return Overloaded(message)
    return Overloaded(f"{message}; it wants a pause of {error.retry_after_s:.0f} s", round(error.retry_after_s), ())
