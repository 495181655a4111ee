"""The first half of a run: reads the source, leaves out what is stored, cuts into chunks, and has them embedded."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from gguf_embed.errors import EmbedError, EngineFailure
from gguf_embed.ingest.job.counters import Ledger
from gguf_embed.ingest.job.documents import (
    Document,
    Work,
    check_batch,
    duplicate_of,
    sort_documents,
    texts_of,
)
from gguf_embed.ingest.job.rejects import Reject, Rejects
from gguf_embed.ingest.job.state import JobState, Stored
from gguf_embed.ingest.pool.base import Embedded, EmbedPool
from gguf_embed.ingest.rows import Chunk, DocumentBatch
from gguf_embed.ingest.sources.base import Source, TextKind

BATCH_ROWS = 500
WINDOW_CHUNKS = 1024
WINDOW_CHARACTERS = 4_000_000
MAX_DOCUMENT_CHARACTERS = 50_000_000
N_WINDOWS_AHEAD = 2
"""How much is read before it is stored; more would only take memory."""

Split = Callable[[str, TextKind], Sequence[Chunk]]


@dataclass(slots=True)
class Window:
    """Documents that are embedded together, with what was asked of the pool."""

    works: list[Work] = field(default_factory=list)
    removals: dict[str, int] = field(default_factory=dict)  # documents that were left half written, and are unusable
    # now → how many rows may be stored
    n_chunks: int = 0
    n_characters: int = 0
    parts: list[Future[Embedded | None]] = field(default_factory=list)  # None: not embedded, the job was stopped

    def add(self, work: Work) -> None:
        self.works.append(work)
        self.n_chunks += work.n_rows
        self.n_characters += len(work.document.text)

    @property
    def is_full(self) -> bool:
        return self.n_chunks >= WINDOW_CHUNKS or self.n_characters >= WINDOW_CHARACTERS


@dataclass(frozen=True, slots=True)
class End:
    """What comes after the last window."""

    is_complete: bool  # the source was read to its end
    error: BaseException | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReaderParts:
    """What a reader works with."""

    source: Source
    state: JobState
    pool: EmbedPool
    rejects: Rejects
    ledger: Ledger
    split: Split | None  # None: documents are stored whole
    key: bytes  # see `settings_key`
    limit: int | None = None


class Reader:
    """Reads in a thread of its own and gives windows in order."""

    def __init__(self, parts: ReaderParts) -> None:
        self._parts = parts
        self._stop = threading.Event()
        self._is_closed = False
        self._windows: queue.Queue[Window | End] = queue.Queue(N_WINDOWS_AHEAD)
        n_calls = parts.pool.n_at_once
        self._calls = ThreadPoolExecutor(n_calls, thread_name_prefix="ingest-embed")
        self._room = threading.Semaphore(2 * n_calls)
        self._thread = threading.Thread(target=self._run, name="ingest-read", daemon=True)
        self._thread.start()

    def windows(self) -> Iterator[Window | End]:
        """All windows, then one `End`."""
        while True:
            item = self._windows.get()
            yield item
            if isinstance(item, End):
                return

    def stop(self) -> None:
        """Read and embed no more. Windows that were read before are still given, with what was being embedded."""
        self._stop.set()

    def close(self) -> None:
        """Stops, and waits for calls that run. What was not taken is dropped."""
        self._is_closed = True
        self.stop()
        while self._thread.is_alive():
            self._drop_waiting()
            self._thread.join(0.05)
        self._drop_waiting()
        self._calls.shutdown(cancel_futures=True)

    def _drop_waiting(self) -> None:
        try:
            while True:
                item = self._windows.get_nowait()
                for part in item.parts if isinstance(item, Window) else ():
                    part.cancel()
        except queue.Empty:
            return

    def _run(self) -> None:
        try:
            self._windows.put(End(self._read()))
        except EmbedError as error:
            self._windows.put(End(False, error))
        except Exception as error:
            failure = EngineFailure(f"reading {self._parts.source.name} failed: {type(error).__name__}: {error}")
            failure.__cause__ = error
            self._windows.put(End(False, failure))

    def _read(self) -> bool:
        """Whether the source was read to its end."""
        window = Window()
        is_complete = True
        for batch in self._batches():
            self._sort(batch, window)
            if window.is_full:
                self._send(window)
                window = Window()
            if self._stop.is_set():
                is_complete = False
                break
        if window.works or window.removals:
            self._send(window)
        return is_complete and self._parts.limit is None

    def _batches(self) -> Iterator[DocumentBatch]:
        left = self._parts.limit
        for batch in self._parts.source.batches(BATCH_ROWS if left is None else min(BATCH_ROWS, max(left, 1))):
            if left is not None:
                batch = first_rows(batch, left)
                left -= len(batch)
            self._parts.ledger.set_share(self._parts.source.share_read())
            self._parts.ledger.count(n_read=len(batch))
            yield batch
            if left == 0:
                return

    def _sort(self, batch: DocumentBatch, window: Window) -> None:
        """Add the documents of a batch that must be embedded to the window."""
        parts = self._parts
        documents, rejects, rejected_ids = check_batch(batch, parts.key)
        known = parts.state.find([*(document.doc_id for document in documents), *valid_ids(rejected_ids)])
        found = sort_documents(documents, known)
        rejects += [Reject(d.place, d.doc_id, duplicate_of(d.doc_id), d.text) for d in found.duplicates]
        rejects += self._add_changed(found.changed, known, window, rejected_ids)
        for doc_id in rejected_ids:
            stored = known.get(doc_id)
            if stored is not None and stored.is_pending and not stored.is_seen:
                window.removals[doc_id] = stored.n_chunks
        parts.state.mark_seen([*(d.doc_id for d in found.unchanged), *(i for i in rejected_ids if i in known)])
        parts.ledger.count(n_unchanged=len(found.unchanged))
        self._reject(rejects)

    def _add_changed(
        self, documents: Sequence[Document], known: dict[str, Stored], window: Window, rejected_ids: list[str]
    ) -> list[Reject]:
        rejects = []
        for document in documents:
            chunks, reason = self._chunks(document)
            if reason:
                rejects.append(Reject(document.place, document.doc_id, reason, document.text))
                rejected_ids.append(document.doc_id)
                continue
            stored = known.get(document.doc_id)
            if stored is None:
                window.add(Work(document, chunks))
            else:
                window.add(Work(document, chunks, stored.n_chunks, stored.is_pending))
        return rejects

    def _chunks(self, document: Document) -> tuple[Sequence[Chunk] | None, str]:
        """The chunks, None for the whole document; and why it cannot be stored, or ""."""
        size = len(document.text)
        if size > MAX_DOCUMENT_CHARACTERS:
            return None, f"has {size:,} characters, the limit per document is {MAX_DOCUMENT_CHARACTERS:,}"
        if self._parts.split is None:
            return None, ""
        chunks = self._parts.split(document.text, self._parts.source.kind)
        return chunks, "" if chunks else "has no text to embed"

    def _reject(self, rejects: Sequence[Reject]) -> None:
        self._parts.ledger.count(n_rejected=len(rejects))
        for reject in rejects:
            self._parts.rejects.add(reject)

    def _send(self, window: Window) -> None:
        """Note what will be written, have it embedded, and pass it on."""
        self._parts.state.intend({work.document.doc_id: work.n_rows for work in window.works})
        texts = texts_of(window.works)
        self._parts.ledger.count(n_sent=len(texts))
        size = self._parts.pool.batch_texts
        for start in range(0, len(texts), size):
            self._room.acquire()
            if self._is_closed:
                return
            part = self._calls.submit(self._embed, texts[start : start + size])
            part.add_done_callback(lambda _: self._room.release())
            window.parts.append(part)
        self._windows.put(window)

    def _embed(self, texts: Sequence[str]) -> Embedded | None:
        if self._stop.is_set():
            return None
        self._parts.ledger.count(n_begun=len(texts))
        embedded = self._parts.pool.embed(texts)
        if self._parts.pool.n_computed() is None:
            self._parts.ledger.count(n_embedded=len(texts), n_embedded_tokens=embedded.n_tokens)
        return embedded


def first_rows(batch: DocumentBatch, n: int) -> DocumentBatch:
    if len(batch) <= n:
        return batch
    return DocumentBatch(batch.ids[:n], batch.texts[:n], batch.metadata[:n], batch.places[:n])


def valid_ids(ids: Sequence[str]) -> list[str]:
    """Those that the state can look up: without lone surrogates."""
    return [doc_id for doc_id in ids if doc_id.isascii() or doc_id.encode("utf-8", "ignore").decode() == doc_id]
