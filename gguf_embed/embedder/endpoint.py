"""One server that speaks OpenAI's embeddings API. Each method is one attempt."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
import orjson

from gguf_embed.embedder.endpoint_errors import ErrorReply, NoSuchRoute, Refused, Temporary, Trouble
from gguf_embed.embedder.endpoint_replies import (
    EmbedReply,
    parse_embeddings,
    parse_json,
    parse_multivectors,
    parse_muvera,
    parse_offsets,
    parse_scores,
    parse_sparse,
    parse_tokens,
)
from gguf_embed.embedder.facts import SparseVector, Vector
from gguf_embed.embedder.server_facts import ServerFacts, facts_of
from gguf_embed.errors import ConfigError, EmbedError, NotSupported
from gguf_embed.tokenization.unicode import valid_unicode
from gguf_embed.types import MULTIVECTOR, SPARSE, FloatMatrix, Muvera, Span

CONNECT_TIMEOUT_S = 10.0


class Endpoint:
    """Sends requests to one server. Except for the constructor, it belongs to one event loop.

    Methods raise `Temporary` for what may succeed later, `Refused` for what the server does not want, and other
    `EmbedError`s, which never contain the key.
    """

    def __init__(
        self, base_url: str, *, model: str | None = None, api_key: str | None = None, timeout_s: float = 60.0
    ) -> None:
        """`base_url` is with or without "/v1" at its end. Raises `ConfigError` for a wrong URL or key."""
        self.root, self.shown = _split_url(base_url)
        if api_key and not (api_key.isascii() and api_key.isprintable()):
            raise ConfigError("the API key has characters that cannot be sent: copy it again")
        if api_key and self.root.partition("://")[2] != self.shown.partition("://")[2]:
            raise ConfigError(f"{self.shown}: the URL has a password, and there is an API key: give only one of them")
        self.model = model
        self._key = api_key
        self._timeout_s = timeout_s
        parts = urlsplit(self.root)
        self._proxy = None if proxy_bypass(parts.hostname or "") else getproxies().get(parts.scheme)
        self._session: aiohttp.ClientSession | None = None

    def __repr__(self) -> str:
        return f"<Endpoint {self.shown}>"

    async def embed(
        self, texts: Sequence[str], *, dimensions: int | None = None, truncate: bool = False, task: str | None = None
    ) -> EmbedReply:
        """Not normalized or cut here. `truncate` and `task` are not OpenAI's; they are sent only if they are set.

        `task` is one of `ServerFacts.tasks`; the server puts its prompt before the texts.
        """
        body = {"input": [valid_unicode(text) for text in texts], "encoding_format": "base64", **self._named()}
        if dimensions is not None:
            body["dimensions"] = dimensions
        if truncate:
            body["truncate"] = True
        if task is not None:
            body["prompt_name"] = task
        return parse_embeddings(await self._post("/v1/embeddings", body), len(texts), self.shown)

    async def multivectors(self, texts: Sequence[str], fields: Mapping[str, object]) -> list[FloatMatrix]:
        """Of our own server. `fields` are further ones of the request. Raises `NotSupported` for another server."""
        return parse_multivectors(await self._post_for(MULTIVECTOR, texts, fields), len(texts), self.shown)

    async def muvera(self, settings: Muvera, texts: Sequence[str], fields: Mapping[str, object]) -> list[Vector]:
        """Of our own server. `fields` are further ones of the request. Raises `NotSupported` for another server."""
        reply = await self._post_for(MULTIVECTOR, texts, {**fields, "muvera": asdict(settings)})
        return parse_muvera(reply, len(texts), self.shown, settings.n_dims)

    async def sparse(self, texts: Sequence[str], fields: Mapping[str, object]) -> list[SparseVector]:
        """Of our own server. `fields` are further ones of the request. Raises `NotSupported` for another server."""
        return parse_sparse(await self._post_for(SPARSE, texts, fields), len(texts), self.shown)

    async def _post_for(self, kind: str, texts: Sequence[str], fields: Mapping[str, object]) -> bytes:
        body = {"input": [valid_unicode(text) for text in texts], "output": [kind], "encoding_format": "base64"}
        return await self._post("/v1/embeddings", {**body, **fields, **self._named()})

    async def rerank(self, query: str, documents: Sequence[str]) -> Vector:
        """float32[n_documents]: a score for each. Raises `NotSupported` if the server has no such route."""
        valid = [valid_unicode(document) for document in documents]
        body = {"query": valid_unicode(query), **self._named()}
        try:
            reply = await self._post("/v1/rerank", body | {"documents": valid, "top_n": len(valid)})
        except NoSuchRoute:  # TEI's
            try:
                reply = await self._post("/rerank", body | {"texts": valid, "raw_scores": True})
            except NoSuchRoute as error:
                raise NotSupported(f"{error.message}: this server cannot rerank") from None
        return parse_scores(reply, len(documents), self.shown)

    async def tokenize(self, text: str) -> list[int]:
        """Ids with special tokens. Raises `NotSupported` if the server has no such route."""
        valid, special = valid_unicode(text), {"add_special": True, "parse_special": True}
        try:
            try:
                reply = await self._post("/tokenize", {"content": valid, **special, **self._named()})
            except Refused:  # TEI's
                reply = await self._post("/tokenize", {"inputs": valid, "add_special_tokens": True})
        except NoSuchRoute as error:
            raise NotSupported(f"{error.message}: this server has no route to tokenize") from None
        return parse_tokens(reply, self.shown)

    async def token_offsets(self, texts: Sequence[str]) -> list[list[Span | None]]:
        """Of each text's own tokens. Raises `NotSupported` if the server does not tell them."""
        body = {"inputs": [valid_unicode(text) for text in texts], "add_special_tokens": False, **self._named()}
        try:
            reply = await self._post("/tokenize", body)
        except (NoSuchRoute, Refused) as error:
            raise NotSupported(f"{error.message}: this server has no route to tokenize") from None
        return parse_offsets(reply, len(texts), self.shown)

    async def facts(self) -> ServerFacts:
        """What the server tells about the model. Servers of other kinds tell nothing."""
        models = await self._get("/v1/models")
        try:
            info = await self._get("/info")
        except Temporary:  # not a route of most servers; some answer it in strange ways
            info = None
        return facts_of(self.model, models, info)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            await asyncio.sleep(0)  # aiohttp closes its sockets in the loop's next turn

    def _named(self) -> dict[str, Any]:
        return {} if self.model is None else {"model": self.model}

    async def _post(self, path: str, body: dict[str, Any]) -> bytes:
        return await self._attempt("POST", path, orjson.dumps(body))

    async def _get(self, path: str) -> Any:
        """None if the server does not have this route. Raises `Temporary` if it may have it."""
        try:
            content = await self._attempt("GET", path)
        except Temporary:
            raise
        except EmbedError:
            return None
        return None if content.lstrip().startswith(b"<") else parse_json(content, self.shown)

    async def _attempt(self, method: str, path: str, body: bytes | None = None) -> bytes:
        """The body of a reply with status 200, read to its end. Raises `EmbedError`s only."""
        try:
            async with self._open().request(
                method, self.root + path, data=body, allow_redirects=False, proxy=self._proxy
            ) as response:
                content = await response.read()
        except (aiohttp.ClientConnectorCertificateError, aiohttp.ClientSSLError, ssl.SSLError) as error:
            raise ConfigError(f"{self.shown}: no safe connection: {self._clean(str(error))}") from None
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            reason = getattr(error, "os_error", None) or error
            raise Temporary(f"{self.shown} cannot be reached: {_reason(reason)}", Trouble.UNREACHABLE) from None
        except TimeoutError:
            message = f"{self.shown} did not answer within {self._timeout_s:g} s"
            raise Temporary(message, Trouble.FAILED) from None
        except aiohttp.InvalidURL:
            raise ConfigError(f"{self.shown} is not a URL") from None
        except (aiohttp.ClientError, OSError) as error:
            message = f"{self.shown} broke the connection: {self._clean(_reason(error))}"
            raise Temporary(message, Trouble.FAILED) from None
        if response.status == 200:
            return content
        raise ErrorReply(self.shown, response.status, response.headers, self._without_key(content)).error()

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            headers = {"Content-Type": "application/json", "Accept": "application/json"}
            if self._key:
                headers["Authorization"] = f"Bearer {self._key}"
            self._session = aiohttp.ClientSession(
                headers=headers,
                connector=aiohttp.TCPConnector(limit=0),
                timeout=aiohttp.ClientTimeout(total=self._timeout_s, sock_connect=CONNECT_TIMEOUT_S),
            )
        return self._session

    def _clean(self, message: str) -> str:
        return message.replace(self._key, "…") if self._key else message

    def _without_key(self, content: bytes) -> bytes:
        return content.replace(self._key.encode(), "…".encode()) if self._key else content


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    return str(error) or type(error).__name__


def _split_url(url: str) -> tuple[str, str]:
    """The root, without "/v1", and the same as it may be shown. Raises `ConfigError`."""
    parts = urlsplit(url.strip())
    shown = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])).rstrip("/").removesuffix("/v1")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"{shown!r} is not the address of a server: write it like http://127.0.0.1:8080")
    if parts.query or parts.fragment:
        raise ConfigError(f"{shown!r}: leave out what follows the path")
    return url.strip().rstrip("/").removesuffix("/v1"), shown
