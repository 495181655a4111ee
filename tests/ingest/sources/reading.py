"""Reading a source to its end, as tests need it."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO, NamedTuple

from gguf_embed.errors import EmbedError
from gguf_embed.ingest.rows import BadRow, DocumentBatch
from gguf_embed.ingest.sources.base import Source, SourceOptions
from gguf_embed.ingest.sources.open import open_source


class Document(NamedTuple):
    """One row of a batch."""

    id: str | None
    text: str | BadRow
    metadata: str
    place: str


def documents_in(batch: DocumentBatch) -> list[Document]:
    rows = zip(batch.ids, batch.texts, batch.metadata, batch.places, strict=True)
    return [Document(*row) for row in rows]


def read(source: Source, n_rows: int = 1000) -> list[Document]:
    """All documents; what holds for every source is asserted."""
    found: list[Document] = []
    for batch in source.batches(n_rows):
        assert 1 <= len(batch) <= n_rows
        found += documents_in(batch)
        share = source.share_read()
        assert share is None or 0 <= share <= 1
    assert source.share_read() in (None, 1.0)
    assert len({document.place for document in found}) == len(found)
    return found


def read_all(location: str | Path, *, stdin: BinaryIO | None = None, n_rows: int = 1000, **options) -> list[Document]:
    source = open_source(str(location), SourceOptions(**options), stdin=stdin)
    try:
        return read(source, n_rows)
    finally:
        source.close()


def read_until_error(location: str | Path, **options) -> tuple[list[Document], EmbedError]:
    """What came before the error, and the error."""
    source = open_source(str(location), SourceOptions(**options))
    found: list[Document] = []
    error: EmbedError | None = None
    try:
        for batch in source.batches(1000):
            found += documents_in(batch)
    except EmbedError as caught:
        error = caught
    source.close()
    assert error is not None
    assert "\n" not in error.message
    return found, error


def texts(documents: list[Document]) -> list[str | BadRow]:
    return [document.text for document in documents]


def reasons(documents: list[Document]) -> dict[str, str]:
    """Place → why it is bad."""
    return {document.place: document.text.reason for document in documents if isinstance(document.text, BadRow)}
