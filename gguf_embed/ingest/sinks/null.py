"""`null:` counts rows and keeps none, to measure everything else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gguf_embed.ingest.rows import Hit, Manifest
from gguf_embed.ingest.sinks.base import IndexChoice, Sink
from gguf_embed.ingest.sinks.open import SinkUrl
from gguf_embed.ingest.sinks.row_vectors import require_width


def open_null(url: SinkUrl) -> Sink:
    """Nothing is there when it is opened again."""
    return NullSink()


class NullSink:
    """Counts the rows that were written, those with the same id each time."""

    name = "nowhere (null:)"

    def __init__(self) -> None:
        self._manifest: Manifest | None = None
        self._n_rows = 0

    def manifest(self) -> Manifest | None:
        return self._manifest

    def create(self, manifest: Manifest) -> None:
        self._manifest = manifest

    def replace_manifest(self, manifest: Manifest) -> None:
        self._manifest = manifest

    def prepare(self, index: IndexChoice) -> str | None:
        return None

    def write(self, rows: pa.RecordBatch) -> None:
        if self._manifest:
            require_width(rows, self._manifest.dimensions, self.name)
        self._n_rows += len(rows)

    def delete(self, ids: Sequence[str]) -> None: ...

    def flush(self) -> None: ...

    def finish(self, index: IndexChoice) -> None: ...

    def stored(self) -> Iterator[pa.RecordBatch]:
        return iter(())

    def count(self) -> int:
        return self._n_rows

    def search(self, vector: NDArray[np.float32], n: int) -> list[Hit]:
        return []

    def close(self) -> None: ...
