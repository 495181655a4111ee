"""Parquet, read as a stream: a row group may be larger than the memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq

from gguf_embed.ingest.rows import DocumentBatch
from gguf_embed.ingest.sources.arrow_columns import arrow_documents, arrow_fields
from gguf_embed.ingest.sources.base import Source, SourceOptions, TextKind
from gguf_embed.ingest.sources.input_file import failures

BUFFER_BYTES = 1 << 20
MAX_BATCH_BYTES = 16 << 20
"""Of the columns that are read, decompressed, by the mean of a row group."""


class ParquetSource:
    """A file."""

    kind: TextKind = "text"

    def __init__(self, path: Path, name: str, options: SourceOptions) -> None:
        self.name = name
        self._path = path
        self._file: pq.ParquetFile | None = None
        self._n_read = 0
        with failures(name), self._open() as file:
            self._n_rows = file.metadata.num_rows
            self._fields = arrow_fields(file.schema_arrow, options, name)
            self._columns = self._fields.needed(file.schema_arrow.names)
            self._batch_rows = _rows_that_fit(file.metadata, self._columns)

    def batches(self, n_rows: int) -> Iterator[DocumentBatch]:
        self.close()
        self._n_read = 0
        try:
            with failures(lambda: f"{self.name} after row {self._n_read}"):
                self._file = self._open()
                batches = self._file.iter_batches(
                    min(n_rows, self._batch_rows), columns=self._columns, use_threads=False
                )
                for batch in batches:
                    documents = arrow_documents(batch, self._fields, self.name, self._n_read + 1)
                    del batch
                    self._n_read += len(documents)
                    yield documents
        finally:
            self.close()

    def _open(self) -> pq.ParquetFile:
        return pq.ParquetFile(self._path, pre_buffer=False, buffer_size=BUFFER_BYTES)

    def share_read(self) -> float:
        return self._n_read / self._n_rows if self._n_rows else 1.0

    def close(self) -> None:
        if self._file:
            self._file.close()
            self._file = None


def _rows_that_fit(metadata: pq.FileMetaData, columns: list[str]) -> int:
    """How many rows of the columns have `MAX_BATCH_BYTES`, by the row group with the longest rows. At least one."""
    read = set(columns)
    row_bytes = 1.0
    for index in range(metadata.num_row_groups):
        group = metadata.row_group(index)
        n_bytes = 0
        for number in range(group.num_columns):
            chunk = group.column(number)
            if chunk.path_in_schema.partition(".")[0] in read or chunk.path_in_schema in read:
                n_bytes += chunk.total_uncompressed_size
        row_bytes = max(row_bytes, n_bytes / max(1, group.num_rows))
    return max(1, int(MAX_BATCH_BYTES / row_bytes))


def open_parquet(path: Path, name: str, options: SourceOptions) -> Source:
    return ParquetSource(path, name, options)
