"""From rows to batches of documents."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from gguf_embed.errors import EmbedError
from gguf_embed.ingest.rows import BadRow, DocumentBatch
from gguf_embed.ingest.sources.fields import Fields, Row, id_of, json_text, text_of

MAX_BATCH_CHARACTERS = 8 << 20
"""A batch ends with the row that reaches this, so that long texts do not fill the memory."""

MAX_TEXT_BYTES = 64 << 20
"""The longest line or file that is read."""

TOO_LONG = f"is longer than {MAX_TEXT_BYTES >> 20} MiB"


class DocumentColumns:
    """A batch that is being filled."""

    __slots__ = ("ids", "metadata", "n_characters", "places", "texts")

    def __init__(self) -> None:
        self.ids: list[str | None] = []
        self.texts: list[str | BadRow] = []
        self.metadata: list[str] = []
        self.places: list[str] = []
        self.n_characters = 0

    def add(self, place: str, identity: str | None, text: str | BadRow, metadata: str) -> None:
        self.places.append(place)
        self.ids.append(identity)
        self.texts.append(text)
        self.metadata.append(metadata)
        self.n_characters += len(metadata) + (len(text) if isinstance(text, str) else 0)

    def full(self, n_rows: int) -> bool:
        return len(self.texts) >= n_rows or self.n_characters >= MAX_BATCH_CHARACTERS

    def batch(self) -> DocumentBatch:
        return DocumentBatch(self.ids, self.texts, self.metadata, self.places)


Document = tuple[str, str | None, str | BadRow, str]
"""Place, id, text, metadata."""


def in_batches(documents: Iterable[Document], n_rows: int) -> Iterator[DocumentBatch]:
    """An error of the source is raised after the documents before it."""
    columns = DocumentColumns()
    try:
        for document in documents:
            columns.add(*document)
            if columns.full(n_rows):
                yield columns.batch()
                columns = DocumentColumns()
    except EmbedError:
        if columns.texts:
            yield columns.batch()
        raise
    if columns.texts:
        yield columns.batch()


def documents_of(rows: Iterable[tuple[str, Row | BadRow]], fields: Fields) -> Iterator[Document]:
    """From pairs of place and row."""
    names, id_name = fields.text, fields.id
    with_metadata = fields.metadata != ()
    for place, row in rows:
        if isinstance(row, BadRow):
            yield place, None, row, "{}"
            continue
        text = text_of(row, names)
        identity = None if id_name is None else id_of(row.get(id_name), id_name)
        if isinstance(identity, BadRow):
            yield place, None, identity, "{}"
            continue
        metadata = "{}"
        if with_metadata and isinstance(text, str):
            metadata = json_text({name: row[name] for name in fields.kept(row)})
        yield place, identity, text, metadata
