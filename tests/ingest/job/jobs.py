"""Runs jobs in tests: a JSONL file into a SQLite file, with the fake model."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from gguf_embed.ingest.chunking.chunker import Chunker
from gguf_embed.ingest.chunking.settings import ChunkSettings, settings_json
from gguf_embed.ingest.job.counters import Ledger
from gguf_embed.ingest.job.rejects import Rejects
from gguf_embed.ingest.job.run import Job, JobOptions, Outcome
from gguf_embed.ingest.job.state import JobState
from gguf_embed.ingest.sinks.open import open_sink
from gguf_embed.ingest.sources.base import SourceOptions
from gguf_embed.ingest.sources.open import open_source
from tests.ingest.job.fakes import FakePool

CHUNKS = ChunkSettings(8)

Documents = Mapping[str, str]

ENDLESS = 500_000
"""More short texts than a job embeds, on any machine, before a test that waits for its first event stops it."""


def write_source(path: Path, documents: Documents) -> None:
    lines = (json.dumps({"id": doc_id, "text": text, "n": len(text)}) for doc_id, text in documents.items())
    path.write_text("".join(line + "\n" for line in lines))


@dataclass(frozen=True)
class Place:
    """Where a job of these tests reads and writes."""

    folder: Path
    url: str = ""  # of the sink; "": a SQLite file in the folder
    chunks: ChunkSettings | None = CHUNKS
    pool: FakePool = field(default_factory=FakePool)

    @property
    def source(self) -> Path:
        return self.folder / "source.jsonl"

    @property
    def state(self) -> Path:
        return self.folder / "state.db"

    @property
    def rejects(self) -> Path:
        return self.folder / "rejects.jsonl"

    @property
    def sink(self) -> str:
        return self.url or f"sqlite:{self.folder / 'sink.db'}?table=docs"

    def run(self, documents: Documents | None = None, max_errors: int = 100, **options: object) -> Outcome:
        """One run, after the source was written with these documents."""
        if documents is not None:
            write_source(self.source, documents)
        split = None
        if self.chunks is not None:
            split = Chunker(self.chunks, self.pool.token_offsets, max_tokens=64, n_special=2).split
        with ExitStack() as stack:

            def closing(part):
                stack.callback(part.close)
                return part

            source = closing(open_source(str(self.source), SourceOptions(metadata=("n",))))
            sink = closing(open_sink(self.sink))
            state = closing(JobState(self.state, str(self.source)))
            rejects = closing(Rejects(self.rejects, max_errors))
            job = Job(source, sink, self.pool, state, rejects, Ledger())
            chosen = JobOptions(chunking=settings_json(self.chunks), **options)  # type: ignore[arg-type]
            manifest, _ = job.prepare(chosen)
            return job.run(manifest, split, chosen)

    def rejected(self) -> list[dict[str, str]]:
        return [json.loads(line) for line in self.rejects.read_text().splitlines()]

    def stored(self) -> dict[str, str]:
        """Row id → text, as the sink has it."""
        return {row_id: text for row_id, (text, _) in self.rows().items()}

    def rows(self) -> dict[str, tuple[str, list[float]]]:
        """Row id → text and vector, by a search over everything."""
        sink = open_sink(self.sink)
        try:
            found = sink.search(self.pool.vector("anything"), 100_000)
            assert len(found) == sink.count() == len({hit.id for hit in found})
            return {hit.id: (hit.text, [hit.score]) for hit in found}
        finally:
            sink.close()

    def expected(self, documents: Documents) -> dict[str, str]:
        """The rows that these documents should have."""
        if self.chunks is None:
            return dict(documents)
        chunker = Chunker(self.chunks, self.pool.token_offsets, max_tokens=64, n_special=2)
        return {
            f"{doc_id}#{number}": text[chunk.start : chunk.end]
            for doc_id, text in documents.items()
            for number, chunk in enumerate(chunker.split(text))
        }


def tables_of(path: Path) -> list[str]:
    with sqlite3.connect(path) as db:
        return [name for (name,) in db.execute("select name from sqlite_master where type = 'table'")]
