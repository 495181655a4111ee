"""Chroma's `EmbeddingFunction`, on an `Embedder` or a `Client`. Needs chromadb."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from chromadb.api.types import EmbeddingFunction
from chromadb.utils.embedding_functions import register_embedding_function

from gguf_embed.errors import ConfigError

if TYPE_CHECKING:
    from gguf_embed.embedder.facts import Vector
    from gguf_embed.embedder.methods import TextModel

NAME = "gguf-embed"


@register_embedding_function
class ChromaEmbeddingFunction(EmbeddingFunction):  # type: ignore[misc]
    """For Chroma's collections. The model stays open until its owner closes it.

    A collection keeps the model's name only, so pass this again when you open it:
    `client.get_collection(name, embedding_function=ChromaEmbeddingFunction(model))`.
    """

    def __init__(self, model: TextModel | None) -> None:
        self._model = model

    def __call__(self, input: list[str]) -> list[Vector]:  # Chroma calls it by this name
        """One vector per document, with the model's prompt for documents."""
        return list(self._open().embed_documents(input))

    def embed_query(self, input: list[str]) -> list[Vector]:
        """One vector per query, with the model's prompt for queries."""
        return list(self._open().embed(list(input), prompt="query"))

    def _open(self) -> TextModel:
        if self._model is None:
            raise ConfigError(
                "this collection was opened without its model: pass "
                "embedding_function=ChromaEmbeddingFunction(Embedder(…)) to get_collection"
            )
        return self._model

    @staticmethod
    def name() -> str:
        return NAME

    def get_config(self) -> dict[str, Any]:
        return {} if self._model is None else {"model": self._model.info.name}

    @staticmethod
    def build_from_config(config: dict[str, Any]) -> ChromaEmbeddingFunction:
        """Chroma calls this often, so it loads no model."""
        return ChromaEmbeddingFunction(None)

    def default_space(self) -> str:
        return "cosine"
