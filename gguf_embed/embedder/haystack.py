"""Haystack's embedders, on an `Embedder` or a `Client`. Needs haystack-ai."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn

from haystack import Document, component

from gguf_embed.errors import ConfigError

if TYPE_CHECKING:
    from gguf_embed.embedder.methods import TextModel


class _OnModel:
    """A component that uses a model. The model stays open until its owner closes it."""

    def to_dict(self) -> NoReturn:
        raise ConfigError(
            "this component holds an open model, so a pipeline with it cannot be saved: create the model and the "
            "pipeline in the same program"
        )


@component
class GgufTextEmbedder(_OnModel):
    """One text → its vector, with the model's prompt for queries."""

    def __init__(self, model: TextModel, *, prompt: str | None = "query") -> None:
        """`prompt` is that of `Embedder.embed`."""
        self._model = model
        self._prompt = prompt

    @component.output_types(embedding=list[float])  # type: ignore[untyped-decorator]
    def run(self, text: str) -> dict[str, Any]:
        return {"embedding": self._model.embed(text, prompt=self._prompt).tolist()}

    @component.output_types(embedding=list[float])  # type: ignore[untyped-decorator]
    async def run_async(self, text: str) -> dict[str, Any]:
        return {"embedding": (await self._model.aembed(text, prompt=self._prompt)).tolist()}


@component
class GgufDocumentEmbedder(_OnModel):
    """Documents → copies of them with vectors, with the model's prompt for documents."""

    def __init__(
        self,
        model: TextModel,
        *,
        prompt: str | None = "document",
        meta_fields_to_embed: Sequence[str] = (),
        embedding_separator: str = "\n",
    ) -> None:
        """`prompt` is that of `Embedder.embed`. The values of `meta_fields_to_embed` are put before the content."""
        self._model = model
        self._prompt = prompt
        self._fields = tuple(meta_fields_to_embed)
        self._separator = embedding_separator

    @component.output_types(documents=list[Document])  # type: ignore[untyped-decorator]
    def run(self, documents: list[Document]) -> dict[str, Any]:
        vectors = self._model.embed(self._texts(documents), prompt=self._prompt)
        return {"documents": _with_vectors(documents, vectors.tolist())}

    @component.output_types(documents=list[Document])  # type: ignore[untyped-decorator]
    async def run_async(self, documents: list[Document]) -> dict[str, Any]:
        vectors = await self._model.aembed(self._texts(documents), prompt=self._prompt)
        return {"documents": _with_vectors(documents, vectors.tolist())}

    def _texts(self, documents: list[Document]) -> list[str]:
        return [
            self._separator.join(
                [
                    *(str(document.meta[name]) for name in self._fields if document.meta.get(name) is not None),
                    document.content or "",
                ]
            )
            for document in documents
        ]


def _with_vectors(documents: list[Document], vectors: list[list[float]]) -> list[Document]:
    return [replace(document, embedding=vector) for document, vector in zip(documents, vectors, strict=True)]
