"""LangChain's `Embeddings`, on an `Embedder` or a `Client`. Needs langchain-core."""

from __future__ import annotations

from typing import TYPE_CHECKING

from langchain_core.embeddings import Embeddings

if TYPE_CHECKING:
    from gguf_embed.embedder.methods import TextModel


class LangChainEmbeddings(Embeddings):  # type: ignore[misc]
    """For LangChain's vector stores and retrievers. The model stays open until its owner closes it."""

    def __init__(self, model: TextModel) -> None:
        self._model = model

    def __repr__(self) -> str:
        return f"<LangChainEmbeddings of {self._model!r}>"

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """One vector per text, as numbers, with the model's prompt for documents."""
        vectors: list[list[float]] = self._model.embed_documents(texts).tolist()
        return vectors

    def embed_query(self, text: str) -> list[float]:
        """One vector, with the model's prompt for queries."""
        vector: list[float] = self._model.embed_query(text).tolist()
        return vector

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        vectors: list[list[float]] = (await self._model.aembed_documents(texts)).tolist()
        return vectors

    async def aembed_query(self, text: str) -> list[float]:
        vector: list[float] = (await self._model.aembed_query(text)).tolist()
        return vector
