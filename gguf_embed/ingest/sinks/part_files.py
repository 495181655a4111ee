"""A sink in files that are never changed: each flush adds a part, `finish` merges parts and drops old rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gguf_embed.errors import ConfigError, EngineFailure, Unavailable
from gguf_embed.ingest.rows import STORED, Hit, Manifest, row_schema
from gguf_embed.ingest.sinks.base import IndexChoice
from gguf_embed.ingest.sinks.id_hashes import IdSet, Removals, hashes_of
from gguf_embed.ingest.sinks.manifest_json import KEY, to_json
from gguf_embed.ingest.sinks.part_folder import LOCK_FILE, Contents, Part, PartFolder, new_file
from gguf_embed.ingest.sinks.part_format import PartFormat, Source
from gguf_embed.ingest.sinks.part_merge import Group, plan
from gguf_embed.ingest.sinks.part_writing import Writing
from gguf_embed.ingest.sinks.row_vectors import Nearest, matrix_of, require_query_width, require_width, row_at
from gguf_embed.ingest.sinks.writer_lock import WriterLock

ROWS_PER_PART = 100_000
BYTES_PER_PART = 64 << 20  # in memory; merged parts have `ROWS_PER_PART` rows whatever their size
SMALL_PARTS = 500  # so many are merged before the end of a run


class PartFiles:
    """Rows in the files of a `PartFolder`. Of rows with one id, the newest counts."""

    def __init__(self, folder: PartFolder, layout: PartFormat, name: str) -> None:
        self.name = name
        self._folder = folder
        self._layout = layout
        self._writing: Writing | None = None

    def manifest(self) -> Manifest | None:
        with self._failures():
            contents = self._writing.committed if self._writing else self._folder.load(self.name)
        return contents.manifest if contents else None

    def create(self, manifest: Manifest) -> None:
        with self._failures():
            self._require_new()
            self._folder.folder.mkdir(parents=True, exist_ok=True)
            with self._locked() as lock:
                self._require_new()
                contents = Contents(manifest)
                self._folder.commit(contents)
                self._writing = Writing(lock, contents, known=IdSet())

    def _require_new(self) -> None:
        if self._writing or self._folder.load(self.name):
            raise ConfigError(f"{self.name} exists already")

    def replace_manifest(self, manifest: Manifest) -> None:
        with self._failures():
            writing = self._open_for_writing()
            self.flush()
            writing.committed = replace(writing.committed, manifest=manifest)
            self._folder.commit(writing.committed)

    def prepare(self, index: IndexChoice) -> str | None:
        with self._failures():
            self._open_for_writing()
        return None

    def write(self, rows: pa.RecordBatch) -> None:
        with self._failures():
            writing, known = self._open_for_changes()
            require_width(rows, writing.committed.manifest.dimensions, self.name)
            hashes = hashes_of(rows.column("id"))
            if writing.in_buffer.contains(hashes).any():
                self._cut(writing)
            is_known = known.contains(hashes)
            if is_known.any():
                writing.removed.append(hashes[is_known])
            known.add(hashes[~is_known])
            writing.in_buffer.add(hashes)
            writing.buffer.append(rows)
            writing.n_rows += len(rows)
            writing.n_bytes += rows.nbytes
            if writing.n_rows >= ROWS_PER_PART or writing.n_bytes >= BYTES_PER_PART:
                self._cut(writing)

    def delete(self, ids: Sequence[str]) -> None:
        with self._failures():
            writing, known = self._open_for_changes()
            hashes = hashes_of(ids)
            hashes = hashes[known.contains(hashes)]
            if writing.in_buffer.contains(hashes).any():
                self._cut(writing)
            if len(hashes):
                writing.removed.append(hashes)

    def flush(self) -> None:
        writing = self._writing
        if not writing:
            return
        with self._failures():
            self._cut(writing)
            if not writing.cut:
                return
            contents = writing.contents()
            self._folder.commit(contents)
            writing.committed = contents
            writing.cut.clear()
            if sum(0 < part.n_rows < ROWS_PER_PART // 2 for part in contents.parts) > SMALL_PARTS:
                self._merge(writing, everything=False)

    def finish(self, index: IndexChoice) -> None:
        self.flush()
        with self._failures():
            contents = self._contents()
            publishes = bool(self._folder.published)
            if contents and not (publishes and len(contents.parts) == 1 and contents.parts[0].published):
                self._merge(self._open_for_writing(), everything=publishes)

    def stored(self) -> Iterator[pa.RecordBatch]:
        return (batch.select(list(STORED)) for batch in self._live_rows(STORED))

    def count(self) -> int:
        self.flush()
        contents = self._contents()
        if contents and not any(part.n_removed for part in contents.parts):
            return sum(part.n_rows for part in contents.parts)
        return sum(len(batch) for batch in self._live_rows(("id",)))

    def search(self, vector: NDArray[np.float32], n: int) -> list[Hit]:
        contents = self._contents()
        if not contents or n < 1:
            return []
        require_query_width(vector, contents.manifest.dimensions, self.name)
        nearest = Nearest[dict[str, str]](vector, n)
        for rows in self._live_rows(row_schema(contents.manifest.dimensions).names):
            nearest.see(matrix_of(rows), partial(row_at, rows))
        return [Hit(score=score, **row) for score, row in nearest.found]

    def close(self) -> None:
        if self._writing:
            self._writing.lock.release()
            self._writing = None

    @contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except PermissionError as error:
            raise ConfigError(f"{self.name}: {error.filename}: {error.strerror}") from error
        except (OSError, pa.ArrowException) as error:
            raise EngineFailure(f"{self.name}: {str(error).splitlines()[0]}") from error

    @contextmanager
    def _locked(self) -> Iterator[WriterLock]:
        """The lock is kept unless this fails."""
        lock = WriterLock(self._folder.folder / LOCK_FILE, self.name)
        try:
            yield lock
        except BaseException:
            lock.release()
            raise

    def _contents(self) -> Contents | None:
        return self._writing.contents() if self._writing else self._folder.load(self.name)

    def _open_for_writing(self) -> Writing:
        if self._writing is None:
            if not self._folder.load(self.name):
                raise ConfigError(f"{self.name} does not exist yet")
            with self._locked() as lock:
                contents = self._folder.load(self.name)  # what the last writer left before it released the lock
                assert contents is not None
                self._folder.publish(contents)
                self._folder.clean(contents)
                self._writing = Writing(lock, contents)
        return self._writing

    def _open_for_changes(self) -> tuple[Writing, IdSet]:
        """Opened for writing, with the ids of all rows."""
        writing = self._open_for_writing()
        if writing.known is None:
            writing.known = IdSet()
            for batch in self._live_rows(("id",)):
                writing.known.add(hashes_of(batch.column("id")))
        return writing, writing.known

    def _cut(self, writing: Writing) -> None:
        """Make a part of what was written and removed since the last one."""
        if not writing.buffer and not writing.removed:
            return
        name = f"part-{writing.contents().next_part:06}"
        removed = np.concatenate(writing.removed) if writing.removed else np.zeros(0, np.uint64)
        if len(removed):
            with new_file(self._folder.removed(name)) as file:
                file.write(removed.tobytes())
        paths = self._new_paths(name)
        if writing.buffer:
            self._layout.write(paths, self._schema(writing), writing.buffer, writing.n_rows)
        n_bytes = tuple(path.stat().st_size for path in paths) if writing.buffer else ()
        writing.cut.append(Part(name, writing.n_rows, len(removed), n_bytes))
        writing.buffer.clear()
        writing.removed.clear()
        writing.in_buffer.clear()
        writing.n_rows = writing.n_bytes = 0

    def _schema(self, writing: Writing) -> pa.Schema:
        manifest = writing.committed.manifest
        return row_schema(manifest.dimensions).with_metadata({KEY: to_json(manifest)})

    def _new_paths(self, name: str) -> list[Path]:
        return [self._folder.new(name, suffix) for suffix in self._layout.suffixes]

    def _paths(self, part: Part) -> list[Path]:
        self._folder.check(part, self.name)
        return [self._folder.file(part, suffix) for suffix in self._layout.suffixes]

    def _removals(self, parts: Sequence[Part]) -> Removals:
        return Removals(
            (index, np.fromfile(self._folder.removed(part.name), "<u8"))
            for index, part in enumerate(parts)
            if part.n_removed
        )

    def _live_rows(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """The rows that count, with at least these columns."""
        self.flush()
        with self._failures():
            contents = self._contents()
            if not contents:
                return
            try:
                removals = self._removals(contents.parts)
                for index in range(len(contents.parts)):
                    yield from self._live_rows_of(contents, index, removals, columns)
            except (ConfigError, FileNotFoundError) as error:
                if self._writing or self._folder.load(self.name) == contents:
                    raise
                raise Unavailable(
                    f"the writer of {self.name} merged its files while they were read: try again"
                ) from error

    def _live_rows_of(
        self, contents: Contents, index: int, removals: Removals, columns: Sequence[str]
    ) -> Iterator[pa.RecordBatch]:
        part = contents.parts[index]
        schema = row_schema(contents.manifest.dimensions)
        for batch in self._layout.read(self._paths(part), schema, columns) if part.n_rows else ():
            live = removals.live(index, batch.column("id"))
            if live is None or live.any():
                yield batch if live is None else batch.filter(pa.array(live))

    def _merge(self, writing: Writing, *, everything: bool) -> None:
        """Merge small parts and those with rows that do not count any more, or all into one that is published."""
        contents = writing.committed
        removals = self._removals(contents.parts)
        n_live = [self._n_live(contents, index, removals) for index in range(len(contents.parts))]
        groups = plan(contents.parts, n_live, ROWS_PER_PART)
        if everything:
            groups = [Group(tuple(range(len(n_live))), sum(n_live))]
        merged: list[Part] = []
        next_part = contents.next_part
        for group in groups:
            parts = [(index, contents.parts[index]) for index in group.indices]
            if group.unchanged:
                merged.append(replace(parts[0][1], n_removed=0))
                continue
            paths = self._new_paths(f"part-{next_part:06}")
            sources: list[Source] = [
                (self._paths(part), partial(removals.live, index) if removals else None)
                for index, part in parts
                if part.n_rows
            ]
            self._layout.merge(paths, self._schema(writing), sources, group.n_rows)
            sizes = tuple(path.stat().st_size for path in paths)
            merged.append(Part(f"part-{next_part:06}", group.n_rows, 0, sizes, published=everything))
            next_part += 1
        if tuple(merged) != contents.parts:
            writing.committed = replace(contents, parts=tuple(merged), next_part=next_part)
            self._folder.commit(writing.committed)
            self._folder.publish(writing.committed)
            self._folder.clean(writing.committed)

    def _n_live(self, contents: Contents, index: int, removals: Removals) -> int:
        if not removals:
            return contents.parts[index].n_rows
        return sum(len(batch) for batch in self._live_rows_of(contents, index, removals, ("id",)))
