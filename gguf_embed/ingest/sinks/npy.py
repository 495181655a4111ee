"""`npy:folder`: `vectors.npy` for numpy, and `rows.jsonl` with what belongs to its rows, in the same order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import compress
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa

from gguf_embed.ingest.batches import batched
from gguf_embed.ingest.sinks.base import Sink
from gguf_embed.ingest.sinks.local_url import local_path
from gguf_embed.ingest.sinks.open import SinkUrl
from gguf_embed.ingest.sinks.part_files import PartFiles
from gguf_embed.ingest.sinks.part_folder import PartFolder, new_file
from gguf_embed.ingest.sinks.part_format import Source
from gguf_embed.ingest.sinks.row_lines import ROWS_PER_READ, from_lines, ids_of, to_lines
from gguf_embed.ingest.sinks.row_vectors import matrix_of, with_vectors


def open_npy(url: SinkUrl) -> Sink:
    """A folder with `vectors.npy`, float32[n_rows, n_dims], and `rows.jsonl` after each run."""
    layout, path = NpyParts(), local_path(url)
    published = {".npy": path / "vectors.npy", ".jsonl": path / "rows.jsonl"}
    return PartFiles(PartFolder(path, "npy", layout.suffixes, published), layout, f"numpy folder {path}")


class NpyParts:
    """A matrix and a file of lines per part."""

    suffixes: tuple[str, ...] = (".npy", ".jsonl")

    def write(self, paths: Sequence[Path], schema: pa.Schema, batches: Iterable[pa.RecordBatch], n_rows: int) -> None:
        with new_file(paths[0]) as matrix, new_file(paths[1]) as lines:
            write_header(matrix, n_rows, schema)
            for batch in batches:
                matrix.write(matrix_of(batch).astype("<f4", copy=False).tobytes())
                lines.writelines(to_lines(batch, vectors=False))

    def read(self, paths: Sequence[Path], schema: pa.Schema, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        with paths[1].open("rb") as lines:
            if list(columns) == ["id"]:
                yield from (pa.record_batch([ids_of(batch)], ["id"]) for batch in batched(lines, ROWS_PER_READ))
                return
            matrix = np.load(paths[0], mmap_mode="r") if "embedding" in columns else None
            first = 0
            for rows in from_lines(lines, schema, vectors=False):
                yield rows if matrix is None else with_vectors(rows, matrix[first : first + len(rows)], schema)
                first += len(rows)

    def merge(self, paths: Sequence[Path], schema: pa.Schema, parts: Sequence[Source], n_rows: int) -> None:
        with new_file(paths[0]) as matrix, new_file(paths[1]) as merged_lines:
            write_header(matrix, n_rows, schema)
            for (old_matrix, old_lines), live_rows in parts:
                vectors = np.load(old_matrix, mmap_mode="r")
                first = 0
                with old_lines.open("rb") as file:
                    for lines in batched(file, ROWS_PER_READ):
                        live = live_rows(ids_of(lines)) if live_rows else None
                        rows = vectors[first : first + len(lines)]
                        matrix.write((rows if live is None else rows[live]).tobytes())
                        merged_lines.writelines(lines if live is None else compress(lines, live))
                        first += len(lines)


def write_header(file: BinaryIO, n_rows: int, schema: pa.Schema) -> None:
    """What a .npy file begins with."""
    shape = (n_rows, schema.field("embedding").type.list_size)
    np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
