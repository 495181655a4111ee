"""`parquet:folder`: zstd, with the bytes of vectors split by their place, which makes them smaller."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from gguf_embed.ingest.sinks.base import Sink
from gguf_embed.ingest.sinks.local_url import local_path
from gguf_embed.ingest.sinks.open import SinkUrl
from gguf_embed.ingest.sinks.part_files import PartFiles
from gguf_embed.ingest.sinks.part_folder import PartFolder, new_file
from gguf_embed.ingest.sinks.part_format import Source
from gguf_embed.ingest.sinks.row_vectors import matrix_of, with_vectors

ROWS_PER_GROUP = 10_000
ROWS_PER_READ = 2_000


def open_parquet(url: SinkUrl) -> Sink:
    """A folder of `part-*.parquet`, each with the manifest in its schema's metadata."""
    layout, path = ParquetParts(), local_path(url)
    return PartFiles(PartFolder(path, "parquet", layout.suffixes, {}), layout, f"Parquet folder {path}")


class ParquetParts:
    """One Parquet file per part."""

    suffixes: tuple[str, ...] = (".parquet",)

    def write(self, paths: Sequence[Path], schema: pa.Schema, batches: Iterable[pa.RecordBatch], n_rows: int) -> None:
        with (
            new_file(paths[0]) as file,
            pq.ParquetWriter(
                file,
                schema,
                compression="zstd",
                compression_level=1,
                use_dictionary=["doc_id", "headings"],
                use_byte_stream_split=["embedding.list.element"],
            ) as writer,
        ):
            for group in grouped(batches, ROWS_PER_GROUP):
                writer.write_table(pa.Table.from_batches(group).cast(schema), ROWS_PER_GROUP)

    def read(self, paths: Sequence[Path], schema: pa.Schema, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        with pq.ParquetFile(paths[0], pre_buffer=False, buffer_size=1 << 20) as file:
            for batch in file.iter_batches(ROWS_PER_READ, columns=list(columns), use_threads=False):
                if "embedding" in columns:  # Parquet has another name for the items of lists
                    yield with_vectors(batch.select(schema.names[:-1]), matrix_of(batch), schema)
                else:
                    yield batch

    def merge(self, paths: Sequence[Path], schema: pa.Schema, parts: Sequence[Source], n_rows: int) -> None:
        self.write(paths, schema, self._live(schema, parts), n_rows)

    def _live(self, schema: pa.Schema, parts: Sequence[Source]) -> Iterator[pa.RecordBatch]:
        for paths, live_rows in parts:
            for batch in self.read(paths, schema, schema.names):
                live = live_rows(batch.column("id")) if live_rows else None
                yield batch if live is None else batch.filter(pa.array(live))


def grouped(batches: Iterable[pa.RecordBatch], n_rows: int) -> Iterator[list[pa.RecordBatch]]:
    """Consecutive batches that have at least `n_rows` rows together."""
    group: list[pa.RecordBatch] = []
    for batch in batches:
        group.append(batch)
        if sum(map(len, group)) >= n_rows:
            yield group
            group = []
    if group:
        yield group
