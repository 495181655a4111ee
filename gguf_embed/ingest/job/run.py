"""One run of a job, from the source to the sink: 0 rows lost, 0 doubled, 0 stale, wherever an earlier run ended."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from uuid import uuid4

from gguf_embed.errors import ConfigError, EmbedError
from gguf_embed.ingest.job.counters import Counters, Ledger
from gguf_embed.ingest.job.documents import row_ids, settings_key
from gguf_embed.ingest.job.manifests import check_same, have_same_columns, new_manifest
from gguf_embed.ingest.job.reader import End, Reader, ReaderParts, Split
from gguf_embed.ingest.job.rejects import Rejects, TooManyRejects
from gguf_embed.ingest.job.state import Finished, JobState
from gguf_embed.ingest.job.writer import Writer, delete_rows
from gguf_embed.ingest.pool.base import EmbedPool
from gguf_embed.ingest.rows import PROBE_TEXTS, Manifest
from gguf_embed.ingest.sinks.base import IndexChoice, Sink
from gguf_embed.ingest.sources.base import Source

PRUNE_DOCUMENTS = 500
MEASURE_S = 0.2
SETTLE_S = 1.0
"""How long a run waits after one that was killed: a database's server may still work on what it was sent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobOptions:
    """What a run may do."""

    chunking: str = "{}"  # the chunker's settings as JSON
    limit: int | None = None  # documents
    prune: bool = False  # delete the documents that the source does not have any more
    force: bool = False  # replace the rows of another model or other settings
    rebuild_state: bool = False  # from the sink
    index: IndexChoice = "keep"
    model_source: str = ""  # what names the model for a search later


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended."""

    counters: Counters
    is_complete: bool  # the source was read to its end
    error: BaseException | None = None  # after which everything that was read before is stored
    is_stopped: bool = False  # by `Job.stop`


class Job:
    """Everything that one run needs. It owns none of its parts: the caller closes them."""

    def __init__(
        self, source: Source, sink: Sink, pool: EmbedPool, state: JobState, rejects: Rejects, ledger: Ledger
    ) -> None:
        self._source, self._sink, self._pool, self._state = source, sink, pool, state
        self._rejects, self._ledger = rejects, ledger
        self._reader: Reader | None = None
        self.is_stopped = False
        self.is_over = False

    def prepare(self, options: JobOptions) -> tuple[Manifest, str | None]:
        """Check that nothing is mixed, and create the sink if there is none. A line about its index, if there is one.

        Raises `ConfigError` if the sink has rows of another model or other settings, or if state and sink do not
        belong together.
        """
        wanted = new_manifest(self._pool.facts, options.chunking, self._pool.embed(PROBE_TEXTS).vectors)
        wanted = replace(wanted, extra={"model_source": options.model_source})
        stored = self._sink.manifest()
        if options.rebuild_state:
            self._state.replace_all([])
        self._check_state(stored)
        if stored is not None and not (options.force and have_same_columns(stored, wanted)):
            check_same(stored, wanted, self._sink.name)
        if stored is not None and not self._state.ingest_id():
            self._state.replace_all(complete_documents(self._sink))
        manifest = self._sign(stored, wanted, options.force)
        return manifest, self._sink.prepare(options.index)

    def _check_state(self, stored: Manifest | None) -> None:
        known_id = self._state.ingest_id()
        if not known_id:
            return
        if stored is None:
            raise ConfigError(
                f"the state {self._state.path} says that {self._state.n_documents():,} documents are stored in "
                f"{self._sink.name}, but nothing is there: it was removed or renamed. To begin again, add "
                "--rebuild-state"
            )
        if stored.ingest_id != known_id or stored.extra.get("run", "") not in self._state.run_tokens():
            raise ConfigError(
                f"the state {self._state.path} does not describe {self._sink.name} as it is now: it was replaced, "
                "restored, or written with another state. To read the state again from it, add --rebuild-state"
            )

    def _sign(self, stored: Manifest | None, wanted: Manifest, force: bool) -> Manifest:
        """Give the sink and the state the token of this run, by which a restored sink is recognized."""
        manifest = wanted if stored is None else stored
        if stored is not None and force:
            manifest = replace(wanted, ingest_id=stored.ingest_id, created=stored.created)
        token = uuid4().hex
        manifest = replace(manifest, extra={**manifest.extra, "run": token})
        self._state.describe_sink(manifest.ingest_id, token)
        if stored is None:
            self._sink.create(manifest)
        else:
            self._sink.replace_manifest(manifest)
        self._state.confirm_sink(token)
        return manifest

    def run(self, manifest: Manifest, split: Split | None, options: JobOptions) -> Outcome:
        """Raises only for failures after which nothing more can be noted, such as one of the sink."""
        if self._state.has_pending():
            time.sleep(SETTLE_S)
        self._state.start_run()
        is_whole = split is None
        writer = Writer(self._sink, self._state, self._rejects, self._ledger, is_whole=is_whole)
        parts = ReaderParts(
            source=self._source,
            state=self._state,
            pool=self._pool,
            rejects=self._rejects,
            ledger=self._ledger,
            split=split,
            key=settings_key(manifest),
            limit=options.limit,
        )
        self._reader = Reader(parts)
        if self.is_stopped:
            self._reader.stop()
        try:
            with self._measuring():
                end = self._store_all(writer, self._reader)
            if end.is_complete:
                self._settle(options, is_whole)
            self._sink.finish("keep" if self.is_stopped else options.index)
        finally:
            self._reader.close()
            self.is_over = True
        counters = self._ledger.counters
        counters.busy_s = counters.elapsed_s
        return Outcome(counters, end.is_complete, end.error, self.is_stopped)

    @contextmanager
    def _measuring(self) -> Iterator[None]:
        """Count what is embedded several times per second, also while nothing is written."""
        is_over = threading.Event()
        before = self._pool.n_computed() or (0, 0)

        def measure() -> None:
            while not is_over.wait(MEASURE_S):
                n_texts, n_tokens = self._pool.n_computed() or before
                self._ledger.raise_to(n_embedded=n_texts - before[0], n_embedded_tokens=n_tokens - before[1])

        thread = threading.Thread(target=measure, name="ingest-measure", daemon=True)
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()

    def _store_all(self, writer: Writer, reader: Reader) -> End:
        """After an error, what was stored before it is noted."""
        try:
            end, is_all_stored = End(False), True
            for item in reader.windows():
                if isinstance(item, End):
                    end = item
                else:
                    is_all_stored &= writer.store(item)
            writer.commit()
            return replace(end, is_complete=end.is_complete and is_all_stored)
        except EmbedError as error:
            with suppress(EmbedError):
                writer.commit()
            if isinstance(error, TooManyRejects):
                return End(False, error)
            raise

    @property
    def n_to_store(self) -> int:
        """Rows that a job which is stopped now stores before it ends."""
        return self._ledger.counters.n_to_store

    def stop(self) -> None:
        """Read no more; store what is embedded or being embedded. Any thread."""
        self.is_stopped = True
        if self._reader is not None:
            self._reader.stop()

    def _settle(self, options: JobOptions, is_whole: bool) -> None:
        """After a source was read to its end: delete what is half written, and what it does not have any more."""
        while half := self._state.half_written(PRUNE_DOCUMENTS):
            self._remove(half, is_whole)
        if not (options.prune or options.force):
            self._ledger.count(n_gone=self._state.n_gone())
            return
        while gone := self._state.gone(PRUNE_DOCUMENTS, of_all_sources=options.force):
            self._remove(gone, is_whole)
            self._ledger.count(n_pruned=len(gone))

    def _remove(self, documents: Sequence[tuple[str, int]], is_whole: bool) -> None:
        ids = [id_ for doc, n in documents for id_ in row_ids(doc, n, is_whole)]
        delete_rows(self._sink, ids)
        self._sink.flush()
        self._state.finish([], [], [doc for doc, _ in documents])


def complete_documents(sink: Sink) -> list[Finished]:
    """The documents that a sink has, as its rows tell. One of which rows are missing counts as not stored.

    Its hash is then "": it is written again, and what is too much is deleted.
    """
    found: dict[str, tuple[str, int, int]] = {}  # document → hash, highest number, how many rows
    for batch in sink.stored():
        rows = zip(*(batch.column(name).to_pylist() for name in ("doc_id", "chunk", "hash")), strict=True)
        for doc, number, hash_ in rows:
            known = found.get(doc)
            if known is None:
                found[doc] = (hash_, number, 1)
            else:
                found[doc] = (hash_ if known[0] == hash_ else "", max(known[1], number), known[2] + 1)
    return [
        Finished(doc, hash_ if hash_.rpartition("-")[2] == str(n) else "", highest + 1)
        for doc, (hash_, highest, n) in found.items()
    ]
