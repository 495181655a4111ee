"""`lancedb:folder?table=`: a LanceDB table whose primary key is the id.

Merging compares with the ids of all rows, so it takes longer the more there are; rows with new ids
are added instead.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gguf_embed.errors import ConfigError, EmbedError, EngineFailure
from gguf_embed.ingest.batches import batched
from gguf_embed.ingest.rows import STORED, Hit, Manifest, row_schema
from gguf_embed.ingest.sinks.base import IndexChoice, Sink
from gguf_embed.ingest.sinks.database import not_ours, one_line, require
from gguf_embed.ingest.sinks.id_hashes import IdSet, hashes_of
from gguf_embed.ingest.sinks.local_url import local_path
from gguf_embed.ingest.sinks.manifest_json import KEY, from_json, to_json
from gguf_embed.ingest.sinks.open import SinkUrl
from gguf_embed.ingest.sinks.part_folder import sync_folder
from gguf_embed.ingest.sinks.row_vectors import HIT_COLUMNS, require_query_width, require_width
from gguf_embed.ingest.sinks.writer_lock import WriterLock

PRIMARY_KEY = {"lance-schema:unenforced-primary-key": "true"}
"""With it, two programs that merge rows of the same ids do not double them."""

ROWS_AT_ONCE = 2_000
IDS_PER_DELETE = 5_000
COMMITS_PER_CLEANUP = 500  # each leaves small files, and a list of all of them
ROWS_FOR_INDEX = 10_000  # fewer are searched as fast without one
KEPT = timedelta(minutes=10)  # old versions, for those who are reading them
N_PROBES = 50  # parts of an index that are searched
N_REFINED = 5  # for each hit, so many candidates of an index are compared exactly

STORED_SCHEMA = pa.schema([row_schema(1).field(name) for name in STORED])


def open_lancedb(url: SinkUrl) -> Sink:
    """A table in a folder that may have others."""
    return LanceSink(require("lancedb", "lancedb", "lancedb"), local_path(url), url.table)


class LanceSink:
    """Each merge is a version of the table. The manifest is in the metadata of the field `embedding`."""

    def __init__(self, lancedb: Any, folder: Path, table: str) -> None:
        self.name = f"LanceDB table {table} in {folder}"
        self._lancedb = lancedb
        self._folder = folder
        self._table_name = table
        self._table: Any = None
        self._manifest: Manifest | None = None
        self._buffer: list[pa.RecordBatch] = []
        self._buffered: set[str] = set()
        self._synced: set[str] = set()
        self._lock: WriterLock | None = None
        self._known: IdSet | None = None  # of all rows; None: not read yet
        self._n_commits = 0  # since the last cleanup

    def manifest(self) -> Manifest | None:
        with self._failures():
            table = self._open()
            if table is None:
                return None
            schema = table.schema
            fields = [schema.field(name) for name in schema.names if name == "embedding"]
            text = (fields[0].metadata or {}).get(KEY.encode()) if fields else None
        if text is None:
            raise not_ours(self.name)
        self._manifest = from_json(text, self.name)
        return self._manifest

    def _open(self) -> Any:
        if self._table is None and self._folder.exists():
            database = self._lancedb.connect(self._folder)
            if self._table_name in all_tables(database):
                self._table = database.open_table(self._table_name)
        return self._table

    def tables(self) -> list[str]:
        with self._failures():
            return sorted(all_tables(self._lancedb.connect(self._folder))) if self._folder.exists() else []

    def create(self, manifest: Manifest) -> None:
        with self._failures():
            if self.manifest():
                raise ConfigError(f"{self.name} exists already")
            schema = row_schema(manifest.dimensions)
            fields = [field.with_metadata(PRIMARY_KEY) if field.name == "id" else field for field in schema]
            fields[-1] = fields[-1].with_metadata({KEY: to_json(manifest)})
            database = self._lancedb.connect(self._folder)
            self._table = database.create_table(self._table_name, schema=pa.schema(fields))
            self._manifest = manifest
            self._sync()

    def replace_manifest(self, manifest: Manifest) -> None:
        with self._failures():
            table, _ = self._opened()
            table.update_field_metadata({"path": "embedding", "metadata": {KEY: to_json(manifest)}})
            self._manifest = manifest
            self._sync()

    def prepare(self, index: IndexChoice) -> str | None:
        if index == "none":
            with self._failures():
                table, _ = self._opened()
                for name in vector_indexes(table):
                    table.drop_index(name)
        return None

    def write(self, rows: pa.RecordBatch) -> None:
        with self._failures():
            self._changing()
            _, manifest = self._opened()
            require_width(rows, manifest.dimensions, self.name)
            ids = rows.column("id").to_pylist()
            if not self._buffered.isdisjoint(ids):
                self._store()
            self._buffer.append(rows)
            self._buffered.update(ids)
            if len(self._buffered) >= ROWS_AT_ONCE:
                self._store()

    def _store(self) -> None:
        """Add the rows of the buffer whose ids are new, and merge those that may replace one."""
        if self._buffer:
            table, known = self._changing()
            rows = pa.Table.from_batches(self._buffer)
            hashes = np.concatenate([hashes_of(batch.column("id")) for batch in self._buffer])
            is_known = known.contains(hashes)
            if is_known.any():
                merge = table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
                merge.execute(rows.filter(pa.array(is_known)))
            if not is_known.all():
                table.add(rows.filter(pa.array(~is_known)))
            known.add(hashes[~is_known])
            self._n_commits += 1
            self._buffer.clear()
            self._buffered.clear()

    def delete(self, ids: Sequence[str]) -> None:
        with self._failures():
            table, known = self._changing()
            self._store()
            is_known = known.contains(hashes_of(ids))
            for group in batched([id_ for id_, there in zip(ids, is_known, strict=True) if there], IDS_PER_DELETE):
                listed = ", ".join("'" + id_.replace("'", "''") + "'" for id_ in group)
                table.delete(f"id in ({listed})")
                self._n_commits += 1

    def flush(self) -> None:
        with self._failures():
            self._store()
            if self._n_commits >= COMMITS_PER_CLEANUP:
                self._table.optimize(cleanup_older_than=KEPT)
                self._n_commits = 0
            self._sync()

    def finish(self, index: IndexChoice) -> None:
        self.flush()
        with self._failures():
            table, _ = self._opened()
            table.optimize(cleanup_older_than=KEPT)
            if index == "after" and not vector_indexes(table) and table.count_rows() >= ROWS_FOR_INDEX:
                config = self._lancedb.index.IvfSq(distance_type="cosine")  # 40,000 rows: 2 s, with HNSW 16 s
                table.create_index("embedding", config=config)
            self._sync()

    def stored(self) -> Iterator[pa.RecordBatch]:
        if self.manifest() is None:
            return
        with self._failures():
            self._store()
            for batch in self._select(STORED):
                yield pa.record_batch(batch.columns, schema=STORED_SCHEMA)

    def _select(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        for batch in self._table.search().select(list(columns)).to_batches():
            if len(batch):
                yield batch.select(list(columns))

    def count(self) -> int:
        if self.manifest() is None:
            return 0
        with self._failures():
            self._store()
            return int(self._table.count_rows())

    def search(self, vector: NDArray[np.float32], n: int) -> list[Hit]:
        manifest = self.manifest()
        if manifest is None or n < 1:
            return []
        require_query_width(vector, manifest.dimensions, self.name)
        with self._failures():
            self._store()
            query = self._table.search(np.asarray(vector, np.float32), vector_column_name="embedding")
            query = query.distance_type("cosine").nprobes(N_PROBES).refine_factor(N_REFINED).limit(n)
            found = query.select([*HIT_COLUMNS, "_distance"]).to_arrow().to_pylist()
        return [Hit(score=1 - row.pop("_distance"), **row) for row in found]

    def close(self) -> None:
        if self._lock is not None:
            self._lock.release()
        self._table = self._manifest = self._lock = self._known = None
        self._buffer.clear()
        self._buffered.clear()

    def _opened(self) -> tuple[Any, Manifest]:
        manifest = self._manifest or self.manifest()
        if manifest is None:
            raise ConfigError(f"{self.name} does not exist yet")
        return self._table, manifest

    def _changing(self) -> tuple[Any, IdSet]:
        """The table, which no other job changes from here on, and the ids of all rows."""
        if self._lock is None:
            self._opened()
            self._lock = WriterLock(self._folder / f".{self._table_name}.lock", self.name)
            self._table.checkout_latest()
        if self._known is None:
            self._known = IdSet()
            for batch in self._select(("id",)):
                self._known.add(hashes_of(batch.column("id")))
        return self._table, self._known

    def _sync(self) -> None:
        """Write the files of the new versions through to the disk, which Lance leaves to the system."""
        folder = self._folder / f"{self._table_name}.lance"
        for place in (folder / "data", folder / "_deletions", folder / "_transactions", folder / "_versions"):
            if not place.is_dir():
                continue
            new = [entry.path for entry in os.scandir(place) if entry.path not in self._synced and entry.is_file()]
            for path in new:
                with open(path, "rb") as file:
                    os.fsync(file.fileno())
            if new:
                sync_folder(place)
            self._synced.update(new)

    @contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except EmbedError:
            raise
        except ValueError as error:
            kind = ConfigError if "table name" in str(error) else EngineFailure
            raise kind(f"{self.name}: {one_line(error)}") from error
        except (OSError, RuntimeError, pa.ArrowException) as error:
            raise EngineFailure(f"{self.name}: {one_line(error)}") from error


def all_tables(database: Any) -> set[str]:
    """Their names; the database lists them page by page."""
    names: set[str] = set()
    page = None
    while True:
        found = database.list_tables(page_token=page)
        names.update(found.tables)
        page = found.page_token
        if not page:
            return names


def vector_indexes(table: Any) -> list[str]:
    return [index.name for index in table.list_indices() if "embedding" in index.columns]
