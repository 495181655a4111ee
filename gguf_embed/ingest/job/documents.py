"""Which documents of a batch must be embedded, and what their rows are. Pure, except for the chunker."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gguf_embed.ingest.job.rejects import Reject
from gguf_embed.ingest.job.state import Stored
from gguf_embed.ingest.rows import BadRow, Chunk, DocumentBatch, Manifest


@dataclass(slots=True)  # not frozen, which would make a million of them twice as slow
class Document:
    """One document that can be stored."""

    doc_id: str
    text: str
    metadata: str
    hash: str  # 32 hexadecimal digits
    place: str


@dataclass(slots=True)
class Work:
    """A document to be embedded."""

    document: Document
    chunks: Sequence[Chunk] | None  # None: the whole document is one row, under its own id
    n_before: int = 0  # rows that may be stored from earlier, from number 0
    was_pending: bool = False

    @property
    def n_rows(self) -> int:
        return 1 if self.chunks is None else len(self.chunks)

    @property
    def hash(self) -> str:
        """As it is stored in each row: see `row_schema`."""
        return f"{self.document.hash}-{self.n_rows}"


def texts_of(works: Sequence[Work]) -> list[str]:
    """What is embedded, row by row."""
    texts: list[str] = []
    for work in works:
        text = work.document.text
        if work.chunks is None:
            texts.append(text)
        else:
            texts += [text[chunk.start : chunk.end] for chunk in work.chunks]
    return texts


def row_ids(doc_id: str, n_chunks: int, is_whole: bool) -> list[str]:
    """The ids of a document's rows."""
    return [doc_id] if is_whole else [f"{doc_id}#{number}" for number in range(n_chunks)]


def settings_key(manifest: Manifest) -> bytes:
    """What all vectors of a sink depend on besides the text. A document's hash begins with it."""
    model = manifest.fingerprint or manifest.model
    settings = (model, manifest.dimensions, manifest.pooling, manifest.normalized, manifest.prompt, manifest.chunking)
    return repr(settings).encode()


def check_batch(batch: DocumentBatch, key: bytes) -> tuple[list[Document], list[Reject], list[str]]:
    """The documents that can be stored, the others, and the ids of those others as far as they have one.

    A document without an id has its place as its id. The second of two documents with the same id is rejected.
    """
    good: dict[str, Document] = {}
    rejects, rejected_ids = [], []
    for given, text, metadata, place in zip(batch.ids, batch.texts, batch.metadata, batch.places, strict=True):
        doc_id = place if given is None else given
        shown = text if isinstance(text, str) else ""
        try:
            reason = text.reason if isinstance(text, BadRow) else _problem(doc_id, text, metadata)
            if not reason and doc_id in good:
                reason = duplicate_of(doc_id)
            if not reason:
                hash_ = document_hash(key, shown, metadata)
        except UnicodeEncodeError:
            reason = "has half of a surrogate pair, which is not valid Unicode"
        if reason:
            rejects.append(Reject(place, doc_id, reason, shown))
            if doc_id not in good:
                rejected_ids.append(doc_id)
        else:
            good[doc_id] = Document(doc_id, shown, metadata, hash_, place)
    return list(good.values()), rejects, rejected_ids


def duplicate_of(doc_id: str) -> str:
    return f"has the id {doc_id!r}, which an earlier row has, too"


def _problem(doc_id: str, text: str, metadata: str) -> str:
    """Why a document cannot be stored; "" if it can."""
    if not doc_id.strip():
        return "has an empty id"
    doc_id.encode()
    if "\0" in text or "\0" in doc_id:
        return "has a NUL character, which databases do not store"
    if "\\u0000" in metadata:
        return "has a NUL character in its metadata, which databases do not store"
    if not text.strip():
        return "has an empty text"
    return ""


def document_hash(key: bytes, text: str, metadata: str) -> str:
    """Raises `UnicodeEncodeError` for a lone surrogate."""
    digest = hashlib.blake2b(key, digest_size=16)
    digest.update(b"\0" + text.encode() + b"\0" + metadata.encode())
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class Sorted:
    """The documents of a batch, by what is to be done."""

    unchanged: Sequence[Document]
    changed: Sequence[Document]  # or new
    duplicates: Sequence[Document]  # of an earlier batch of this run


def sort_documents(documents: Sequence[Document], known: Mapping[str, Stored]) -> Sorted:
    unchanged, changed, duplicates = [], [], []
    for document in documents:
        stored = known.get(document.doc_id)
        if stored is None:
            changed.append(document)
        elif stored.is_seen:
            duplicates.append(document)
        elif not stored.is_pending and stored.hash.partition("-")[0] == document.hash:
            unchanged.append(document)
        else:
            changed.append(document)
    return Sorted(unchanged, changed, duplicates)
