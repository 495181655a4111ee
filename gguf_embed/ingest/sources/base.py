"""The contract of sources."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

from gguf_embed.ingest.rows import DocumentBatch

TextKind = Literal["text", "markdown"]


@dataclass(frozen=True, slots=True)
class SourceOptions:
    """Which fields of a row are what. Sources without fields (folders of texts) ignore it."""

    text_fields: tuple[
        str, ...
    ] = ()  # joined by blank lines; (): "text", "content", "body", "document" or the only one
    id_field: str | None = None  # None: "id", "_id", "doc_id" or "uuid" if there is one
    metadata: tuple[str, ...] = ()  # ("*",): all other fields
    query: str | None = None  # for databases


class Source(Protocol):
    """Documents in an order that is the same each time it is read. One thread."""

    name: str  # for people

    @property
    def kind(self) -> TextKind:
        """Of the documents that are being read."""
        ...

    def batches(self, n_rows: int) -> Iterator[DocumentBatch]:
        """All documents, at most `n_rows` at once; memory does not depend on the size of the source.

        A row without a usable text is a `BadRow`. Raises `EmbedError` that names the file and the place if reading
        cannot go on: what came before was good, and the source counts as not read to its end.
        """
        ...

    def share_read(self) -> float | None:
        """From 0 to 1, of bytes or rows; None: unknown."""
        ...

    def close(self) -> None: ...
