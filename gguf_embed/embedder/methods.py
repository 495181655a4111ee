"""The methods that `Embedder` and `Client` share, for any thread and for any running event loop."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Self, cast, overload

import numpy as np

from gguf_embed.embedder.facts import Info, Ranked, SparseVector, Vector, similarity
from gguf_embed.embedder.loop_thread import LoopThread
from gguf_embed.embedder.texts import as_texts, not_one
from gguf_embed.embedder.words import worded
from gguf_embed.types import FloatMatrix, Muvera

if TYPE_CHECKING:
    from gguf_embed.embedder.langchain import LangChainEmbeddings


DEFAULT_MUVERA = Muvera()


@dataclass(frozen=True, slots=True)
class EmbedOptions:
    """How texts are embedded. None: as the `Embedder` or the server does it by default."""

    prompt: str | None = None
    dimensions: int | None = None
    normalize: bool | None = None
    truncate: bool = False
    muvera: Muvera | None = None


class TextModel(ABC):
    """Vectors and scores of texts. All methods may be called from any thread, several at once.

    Each method that waits has a twin with an `a` before its name, to be awaited on any running loop.

    Errors are `gguf_embed.errors.EmbedError`s, with one line that says what to do: `InputTooLong` for a text over the
    model's limit, `InvalidInput` for one without a token, `NotSupported` for what the model cannot do, `Unavailable`
    after `close`. None is returned in part: if a text fails, so does the call.
    """

    _loop: LoopThread

    @overload
    def embed(
        self,
        texts: str,
        *,
        prompt: str | None = None,
        dimensions: int | None = None,
        normalize: bool | None = None,
        truncate: bool = False,
    ) -> Vector: ...

    @overload
    def embed(
        self,
        texts: Iterable[str],
        *,
        prompt: str | None = None,
        dimensions: int | None = None,
        normalize: bool | None = None,
        truncate: bool = False,
    ) -> FloatMatrix: ...

    def embed(
        self,
        texts: str | Iterable[str],
        *,
        prompt: str | None = None,
        dimensions: int | None = None,
        normalize: bool | None = None,
        truncate: bool = False,
    ) -> FloatMatrix:
        """Texts → float32[n_texts, n_dims]; a single str → float32[n_dims].

        `prompt`: "query", "document" or another name of the model's prompts; any other text, such as "query: ", is put
        before each text as it is. A single word is taken for a name. `dimensions`: cut to the first so many, and
        normalized again. `normalize`: whether vectors get length 1. `truncate`: cut texts over the model's limit.
        """
        options = EmbedOptions(prompt, dimensions, normalize, truncate)
        given, is_one = as_texts(texts)
        with worded():
            return _first_if(is_one, self._loop.run(lambda: self._embed(given, options)))

    async def aembed(
        self,
        texts: str | Iterable[str],
        *,
        prompt: str | None = None,
        dimensions: int | None = None,
        normalize: bool | None = None,
        truncate: bool = False,
    ) -> FloatMatrix:
        """`embed`, to be awaited."""
        options = EmbedOptions(prompt, dimensions, normalize, truncate)
        given, is_one = as_texts(texts)
        with worded():
            return _first_if(is_one, await self._loop.wait(lambda: self._embed(given, options)))

    def embed_documents(self, texts: Iterable[str]) -> FloatMatrix:
        """Texts to be found, with the model's own prompt for documents if it has one: float32[n_texts, n_dims]."""
        return self.embed(not_one(texts), prompt="document")

    async def aembed_documents(self, texts: Iterable[str]) -> FloatMatrix:
        """`embed_documents`, to be awaited."""
        return await self.aembed(not_one(texts), prompt="document")

    def embed_query(self, text: str) -> Vector:
        """A question to search with, with the model's own prompt for queries if it has one: float32[n_dims]."""
        return self.embed(text, prompt="query")

    async def aembed_query(self, text: str) -> Vector:
        """`embed_query`, to be awaited."""
        return await self.aembed(text, prompt="query")

    def embed_multivector(
        self, texts: Iterable[str], *, prompt: str | None = None, dimensions: int | None = None, truncate: bool = False
    ) -> list[FloatMatrix]:
        """float32[n_tokens, n_dims] for each text, rows of length 1, from a ColBERT model or BGE-M3.

        `prompt`: "query" reads the texts as queries. Raises `NotSupported` for a model without such a head.
        """
        given, options = not_one(texts), EmbedOptions(prompt, dimensions, None, truncate)
        with worded():
            return self._loop.run(lambda: self._embed_multivector(given, options))

    async def aembed_multivector(
        self, texts: Iterable[str], *, prompt: str | None = None, dimensions: int | None = None, truncate: bool = False
    ) -> list[FloatMatrix]:
        """`embed_multivector`, to be awaited."""
        given, options = not_one(texts), EmbedOptions(prompt, dimensions, None, truncate)
        with worded():
            return await self._loop.wait(lambda: self._embed_multivector(given, options))

    def embed_muvera(
        self,
        texts: Iterable[str],
        *,
        settings: Muvera = DEFAULT_MUVERA,
        prompt: str | None = None,
        truncate: bool = False,
    ) -> FloatMatrix:
        """float32[n_texts, settings.n_dims]: one vector in place of each multi-vector, not of length 1.

        Their dot products with those of `prompt="query"` approximate MaxSim. Raises `NotSupported` for a model without
        multi-vectors.
        """
        given, options = not_one(texts), EmbedOptions(prompt, None, None, truncate)
        with worded():
            return self._loop.run(lambda: self._embed_muvera(given, options, settings))

    async def aembed_muvera(
        self,
        texts: Iterable[str],
        *,
        settings: Muvera = DEFAULT_MUVERA,
        prompt: str | None = None,
        truncate: bool = False,
    ) -> FloatMatrix:
        """`embed_muvera`, to be awaited."""
        given, options = not_one(texts), EmbedOptions(prompt, None, None, truncate)
        with worded():
            return await self._loop.wait(lambda: self._embed_muvera(given, options, settings))

    def embed_sparse(
        self, texts: Iterable[str], *, prompt: str | None = None, truncate: bool = False
    ) -> list[SparseVector]:
        """The weights of each text's vocabulary entries, from a SPLADE model or BGE-M3.

        `prompt`: "query" reads the texts as queries. Raises `NotSupported` for a model without such a head.
        """
        given, options = not_one(texts), EmbedOptions(prompt, None, None, truncate)
        with worded():
            return self._loop.run(lambda: self._embed_sparse(given, options))

    async def aembed_sparse(
        self, texts: Iterable[str], *, prompt: str | None = None, truncate: bool = False
    ) -> list[SparseVector]:
        """`embed_sparse`, to be awaited."""
        given, options = not_one(texts), EmbedOptions(prompt, None, None, truncate)
        with worded():
            return await self._loop.wait(lambda: self._embed_sparse(given, options))

    def rerank(self, query: str, documents: Iterable[str], top_n: int | None = None) -> list[Ranked]:
        """The documents by relevance to the query, best first; `top_n`: only so many. Needs a reranker
        or a ColBERT model. Raises `NotSupported` for any other.
        """
        given = list(not_one(documents))
        with worded():
            return ranking(self._loop.run(lambda: self._rerank(query, given)), top_n)

    async def arerank(self, query: str, documents: Iterable[str], top_n: int | None = None) -> list[Ranked]:
        """`rerank`, to be awaited."""
        given = list(not_one(documents))
        with worded():
            return ranking(await self._loop.wait(lambda: self._rerank(query, given)), top_n)

    def tokenize(self, text: str) -> list[int]:
        """The ids that the model reads for a text, special tokens included."""
        with worded():
            return self._loop.run(lambda: self._tokenize(text))

    async def atokenize(self, text: str) -> list[int]:
        """`tokenize`, to be awaited."""
        with worded():
            return await self._loop.wait(lambda: self._tokenize(text))

    @staticmethod
    def similarity(a: Any, b: Any) -> FloatMatrix:
        """The cosine of every vector of `a` with every one of `b`: float32[n, d], float32[m, d] → float32[n, m]."""
        return similarity(a, b)

    @property
    def info(self) -> Info:
        """Name, dimensions, limits and fingerprint of the model. A `Client` asks the server for it, once."""
        with worded():
            return self._loop.run(self._info)

    async def ainfo(self) -> Info:
        """`info`, to be awaited."""
        with worded():
            return await self._loop.wait(self._info)

    def langchain(self) -> LangChainEmbeddings:
        """The same as a LangChain `Embeddings`, which returns lists of numbers. Needs langchain-core."""
        from gguf_embed.embedder.langchain import LangChainEmbeddings

        return LangChainEmbeddings(self)

    def close(self) -> None:
        """Wait for calls that are running, then free everything. Safe to call twice."""
        self._loop.close()

    async def aclose(self) -> None:
        """`close`, to be awaited."""
        await self._loop.aclose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __reduce__(self) -> NoReturn:
        name = type(self).__name__
        raise TypeError(
            f"this {name} cannot be pickled or copied, because it owns threads: create one {name} per process, from "
            "the same arguments"
        )

    @abstractmethod
    async def _embed(self, texts: Sequence[str], options: EmbedOptions) -> FloatMatrix:
        """float32[n_texts, n_dims]. On the private loop, like the following."""

    @abstractmethod
    async def _embed_multivector(self, texts: Sequence[str], options: EmbedOptions) -> list[FloatMatrix]:
        """float32[n_tokens, n_dims] for each text."""

    @abstractmethod
    async def _embed_muvera(self, texts: Sequence[str], options: EmbedOptions, settings: Muvera) -> FloatMatrix:
        """float32[n_texts, settings.n_dims]."""

    @abstractmethod
    async def _embed_sparse(self, texts: Sequence[str], options: EmbedOptions) -> list[SparseVector]: ...

    @abstractmethod
    async def _rerank(self, query: str, documents: Sequence[str]) -> Vector:
        """float32[n_documents], one score each."""

    @abstractmethod
    async def _tokenize(self, text: str) -> list[int]: ...

    @abstractmethod
    async def _info(self) -> Info: ...


def _first_if(is_one: bool, vectors: FloatMatrix) -> FloatMatrix:
    return cast("FloatMatrix", vectors[0]) if is_one else vectors


def ranking(scores: Vector, top_n: int | None) -> list[Ranked]:
    """Best first; equal scores in the order of the documents."""
    return [Ranked(int(index), float(scores[index])) for index in np.argsort(-scores, kind="stable")[:top_n]]
