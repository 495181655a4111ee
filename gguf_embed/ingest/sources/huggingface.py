"""A folder that `save_to_disk` of Hugging Face's `datasets` wrote: a dataset, or one with splits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import orjson
import pyarrow as pa

from gguf_embed.errors import ConfigError
from gguf_embed.ingest.rows import DocumentBatch
from gguf_embed.ingest.sources.arrow_columns import arrow_documents, arrow_fields
from gguf_embed.ingest.sources.base import Source, SourceOptions, TextKind
from gguf_embed.ingest.sources.input_file import failures
from gguf_embed.ingest.sources.row_files import RowFile, RowFilesSource

MAX_BATCH_BYTES = 16 << 20

STATE = "state.json"
SPLITS = "dataset_dict.json"


class ArrowStreamSource:
    """A file in Arrow's format for streams, mapped into memory."""

    kind: TextKind = "text"

    def __init__(self, path: Path, name: str, options: SourceOptions) -> None:
        self.name = name
        self._path = path
        self._map: pa.MemoryMappedFile | None = None
        self._share = 0.0
        try:
            self._fields = arrow_fields(self._open().schema, options, name)
        finally:
            self.close()

    def batches(self, n_rows: int) -> Iterator[DocumentBatch]:
        self.close()
        self._share, n_read = 0.0, 0
        try:
            reader = self._open()
            with failures(lambda: f"{self.name} after row {n_read}"):
                for stored in reader:
                    n_at_once = min(n_rows, self._rows_that_fit(stored))
                    for start in range(0, stored.num_rows, n_at_once):
                        batch = stored.slice(start, n_at_once)
                        yield arrow_documents(batch, self._fields, self.name, n_read + 1)
                        n_read += batch.num_rows
            self._share = 1.0
        finally:
            self.close()

    def _rows_that_fit(self, stored: pa.RecordBatch) -> int:
        n_bytes: int = stored.select(self._fields.needed(stored.schema.names)).nbytes
        n_rows: int = stored.num_rows
        return max(1, MAX_BATCH_BYTES * n_rows // max(1, n_bytes))

    def _open(self) -> pa.RecordBatchStreamReader:
        with failures(self.name):
            self._map = pa.memory_map(str(self._path))
            return pa.ipc.open_stream(self._map)

    def share_read(self) -> float:
        return min(1.0, self._map.tell() / max(1, self._map.size())) if self._map else self._share

    def close(self) -> None:
        if self._map:
            self._map.close()
            self._map = None


def open_dataset(folder: Path, name: str, options: SourceOptions) -> Source:
    """All splits, in the dataset's order."""
    if (folder / SPLITS).is_file():
        splits = _json_object(folder / SPLITS).get("splits")
        if not isinstance(splits, list):
            raise ConfigError(f"{folder / SPLITS} names no splits")
        files = [file for split in splits for file in _files(folder / str(split), f"{split}/")]
    else:
        files = _files(folder, "")
    return RowFilesSource(name, files, options)


def _files(folder: Path, prefix: str) -> list[RowFile]:
    state = _json_object(folder / STATE)
    if state.get("_indices_data_files"):
        raise ConfigError(f"{folder} stores a selection of rows: save it again after dataset.flatten_indices()")
    stored = state.get("_data_files")
    if not isinstance(stored, list):
        raise ConfigError(f"{folder / STATE} names no data files")
    names = [str(file["filename"]) for file in stored if isinstance(file, dict) and "filename" in file]
    return [RowFile(folder / file, prefix + file, ArrowStreamSource) for file in names]


def _json_object(path: Path) -> dict[str, object]:
    try:
        value = orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    return value if isinstance(value, dict) else {}
