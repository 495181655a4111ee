"""The second half of a run: stores the rows of embedded windows, and notes in the state what is stored for good."""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, takewhile

import numpy as np
import pyarrow as pa

from gguf_embed.ingest.job.counters import Ledger
from gguf_embed.ingest.job.documents import Work, row_ids, texts_of
from gguf_embed.ingest.job.reader import Window
from gguf_embed.ingest.job.rejects import Reject, Rejects
from gguf_embed.ingest.job.state import Finished, JobState
from gguf_embed.ingest.pool.base import Embedded
from gguf_embed.ingest.rows import row_schema
from gguf_embed.ingest.sinks.base import Sink

COMMIT_S = 5.0
COMMIT_ROWS = 20_000
"""Rows are noted as stored at least so often. A crash costs no more than that."""

DELETE_IDS = 1000


@dataclass(slots=True)
class _Uncommitted:
    written: list[Finished] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    n_rows: int = 0
    since_s: float = field(default_factory=time.monotonic)

    def __bool__(self) -> bool:
        return bool(self.written or self.failed or self.removed)


class Writer:
    """One thread."""

    def __init__(self, sink: Sink, state: JobState, rejects: Rejects, ledger: Ledger, *, is_whole: bool) -> None:
        """`is_whole`: documents are stored whole, not in chunks."""
        self._sink, self._state, self._rejects, self._ledger = sink, state, rejects, ledger
        self._is_whole = is_whole
        self._uncommitted = _Uncommitted()

    def store(self, window: Window) -> bool:
        """Wait until the window is embedded, and write its rows. Raises what embedding or the sink raised.

        False if some of its documents were not embedded, because the job was stopped.
        """
        works, embedded = embedded_works(window.works, _collect(window))
        good, failed = _divide(works, embedded.failures)
        kept = self._without_failures(embedded, works, {work.document.doc_id for work, _ in failed})
        if good:
            self._sink.write(rows_of(good, kept))
        stale = [
            id_
            for work in good
            if work.n_before > work.n_rows
            for id_ in row_ids(work.document.doc_id, work.n_before, self._is_whole)[work.n_rows :]
        ]
        self._note(good, failed)
        stale += self._half_written(window, [work for work, _ in failed])
        delete_rows(self._sink, stale)
        self._ledger.count(n_tokens=embedded.n_tokens, n_settled=len(embedded.vectors))
        self._report(good, failed)
        if self._is_due():
            self.commit()
        return len(works) == len(window.works)

    @staticmethod
    def _without_failures(embedded: Embedded, works: Sequence[Work], failed: set[str]) -> Embedded:
        if not failed:
            return embedded
        keep = np.array([work.document.doc_id not in failed for work in works for _ in range(work.n_rows)], bool)
        columns = {name: column.filter(pa.array(keep)) for name, column in embedded.columns.items()}
        return replace(embedded, vectors=np.ascontiguousarray(embedded.vectors[keep]), columns=columns)

    def _note(self, good: Sequence[Work], failed: Sequence[tuple[Work, str]]) -> None:
        uncommitted = self._uncommitted
        uncommitted.written += [Finished(work.document.doc_id, work.hash, work.n_rows) for work in good]
        uncommitted.failed += [work.document.doc_id for work, _ in failed if not work.was_pending]
        uncommitted.n_rows += sum(work.n_rows for work in good)

    def _half_written(self, window: Window, failed: Sequence[Work]) -> list[str]:
        """Rows of documents that an earlier run left half written, and that cannot be completed now."""
        lost = {work.document.doc_id: max(work.n_before, work.n_rows) for work in failed if work.was_pending}
        lost.update(window.removals)
        self._uncommitted.removed += lost
        return [id_ for doc, n in lost.items() for id_ in row_ids(doc, n, self._is_whole)]

    def _report(self, good: Sequence[Work], failed: Sequence[tuple[Work, str]]) -> None:
        self._ledger.count(
            n_stored=len(good),
            n_chunks=sum(work.n_rows for work in good),
            n_rejected=len(failed),
        )
        for work, reason in failed:
            document = work.document
            self._rejects.add(Reject(document.place, document.doc_id, reason, document.text))

    def _is_due(self) -> bool:
        uncommitted = self._uncommitted
        return uncommitted.n_rows >= COMMIT_ROWS or time.monotonic() - uncommitted.since_s >= COMMIT_S

    def commit(self) -> None:
        """Make sure that everything written so far is stored for good, and note it."""
        uncommitted = self._uncommitted
        if uncommitted:
            self._sink.flush()
            self._state.finish(uncommitted.written, uncommitted.failed, uncommitted.removed)
        self._uncommitted = _Uncommitted()


def _collect(window: Window) -> Embedded:
    """What was computed for the chunks of a window: all, or up to the first that was not embedded."""
    results = [part.result() for part in window.parts]
    parts, failures, start = [part for part in takewhile(lambda result: result is not None, results) if part], {}, 0
    for part in parts:
        failures.update({start + index: reason for index, reason in part.failures.items()})
        start += len(part.vectors)
    if len(parts) == 1:
        return parts[0]
    if not parts:
        return Embedded(np.zeros((0, 0), np.float32))
    return Embedded(
        np.concatenate([part.vectors for part in parts]),
        failures,
        sum(part.n_tokens for part in parts),
        {name: pa.concat_arrays([part.columns[name] for part in parts]) for name in parts[0].columns},
    )


def embedded_works(works: Sequence[Work], embedded: Embedded) -> tuple[Sequence[Work], Embedded]:
    """The documents of which all rows were embedded, and what was computed for them."""
    ends = list(accumulate(work.n_rows for work in works))
    n_works = bisect_right(ends, len(embedded.vectors))
    n_rows = ends[n_works - 1] if n_works else 0
    if n_rows == len(embedded.vectors):
        return works[:n_works], embedded
    return works[:n_works], replace(
        embedded,
        vectors=embedded.vectors[:n_rows],
        failures={index: reason for index, reason in embedded.failures.items() if index < n_rows},
        columns={name: column.slice(0, n_rows) for name, column in embedded.columns.items()},
    )


def _divide(works: Sequence[Work], failures: Mapping[int, str]) -> tuple[list[Work], list[tuple[Work, str]]]:
    """The documents that can be stored, and those of which a chunk failed, with the reason."""
    if not failures:
        return list(works), []
    good, failed, start = [], [], 0
    for work in works:
        end = start + work.n_rows
        reason = next((failures[index] for index in range(start, end) if index in failures), None)
        if reason is None:
            good.append(work)
        else:
            failed.append((work, reason))
        start = end
    return good, failed


def delete_rows(sink: Sink, ids: Sequence[str]) -> None:
    for start in range(0, len(ids), DELETE_IDS):
        sink.delete(ids[start : start + DELETE_IDS])


def rows_of(works: Sequence[Work], embedded: Embedded) -> pa.RecordBatch:
    """With `row_schema`, and the columns of other kinds of vectors: the rows of these documents."""
    vectors = embedded.vectors
    schema = row_schema(vectors.shape[1])
    texts = texts_of(works)
    doc_ids = pa.array([work.document.doc_id for work in works], pa.string())
    hashes = pa.array([work.hash for work in works], pa.string())
    metadata = pa.array([work.document.metadata for work in works], pa.string())
    if works[0].chunks is None:
        places = _whole_documents(texts, doc_ids)
    else:
        repeats = pa.array(np.repeat(np.arange(len(works), dtype=np.int32), [work.n_rows for work in works]))
        places = _chunks(works)
        doc_ids, hashes, metadata = (column.take(repeats) for column in (doc_ids, hashes, metadata))
    ids, numbers, starts, ends, headings = places
    text_column = pa.array(texts, pa.string())
    columns = [ids, doc_ids, numbers, starts, ends, hashes, headings, text_column, metadata]
    names = schema.names[: len(columns)]
    others = dict(embedded.columns)
    if vectors.shape[1]:
        flat = pa.array(np.ascontiguousarray(vectors).reshape(-1))
        others = {"embedding": pa.FixedSizeListArray.from_arrays(flat, type=schema.field("embedding").type), **others}
    fields = [
        *(schema.field(name) for name in names),
        *(pa.field(n, c.type, nullable=False) for n, c in others.items()),
    ]
    return pa.RecordBatch.from_arrays([*columns, *others.values()], schema=pa.schema(fields))


def _whole_documents(texts: Sequence[str], doc_ids: pa.Array) -> tuple[pa.Array, ...]:
    """The columns id, chunk, start, end and headings."""
    n_rows = len(texts)
    ends = np.fromiter(map(len, texts), np.int64, n_rows)
    zeros = np.zeros(n_rows, np.int64)
    headings = pa.array([""], pa.string()).take(pa.array(zeros))
    return doc_ids, pa.array(zeros.astype(np.int32)), pa.array(zeros), pa.array(ends), headings


def _chunks(works: Sequence[Work]) -> tuple[pa.Array, ...]:
    """The columns id, chunk, start, end and headings."""
    chunks = [chunk for work in works for chunk in work.chunks or ()]
    return (
        pa.array([id_ for work in works for id_ in row_ids(work.document.doc_id, work.n_rows, False)], pa.string()),
        pa.array([number for work in works for number in range(work.n_rows)], pa.int32()),
        pa.array([chunk.start for chunk in chunks], pa.int64()),
        pa.array([chunk.end for chunk in chunks], pa.int64()),
        pa.array([" > ".join(chunk.headings) for chunk in chunks], pa.string()),
    )
