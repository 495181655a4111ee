"""`jsonl:file` and `jsonl:folder`: a JSON object per row, also as .gz or .zst."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import compress
from pathlib import Path
from typing import BinaryIO, cast

import pyarrow as pa

from gguf_embed.ingest.batches import batched
from gguf_embed.ingest.sinks.base import Sink
from gguf_embed.ingest.sinks.local_url import local_path
from gguf_embed.ingest.sinks.open import SinkUrl
from gguf_embed.ingest.sinks.part_files import PartFiles
from gguf_embed.ingest.sinks.part_folder import PartFolder, new_file
from gguf_embed.ingest.sinks.part_format import Source
from gguf_embed.ingest.sinks.row_lines import ROWS_PER_READ, from_lines, ids_of, to_lines

FILE_ENDINGS = (".jsonl", ".ndjson", ".json")
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}


def open_jsonl(url: SinkUrl) -> Sink:
    """A path that ends like a file is one file after each run; the manifest and new rows are in "<file>.parts"."""
    path = local_path(url)
    ending = path.suffix if path.suffix in COMPRESSIONS else ""
    layout = JsonlParts(f".jsonl{ending}")
    if not path.name.removesuffix(ending).endswith(FILE_ENDINGS):
        return PartFiles(PartFolder(path, "jsonl", layout.suffixes, {}), layout, f"folder of JSON lines {path}")
    folder = path.with_name(path.name + ".parts")
    files = PartFolder(folder, "jsonl", layout.suffixes, {layout.suffixes[0]: path})
    return PartFiles(files, layout, f"JSON lines {path}")


class JsonlParts:
    """One file of lines per part; each line ends with the vector."""

    def __init__(self, suffix: str) -> None:
        self.suffixes: tuple[str, ...] = (suffix,)

    def write(self, paths: Sequence[Path], schema: pa.Schema, batches: Iterable[pa.RecordBatch], n_rows: int) -> None:
        with lines_file(paths[0]) as file:
            for batch in batches:
                file.writelines(to_lines(batch, vectors=True))

    def read(self, paths: Sequence[Path], schema: pa.Schema, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        with pa.input_stream(paths[0], compression="detect") as stream:
            lines = io.BufferedReader(stream, 1 << 20)
            if list(columns) == ["id"]:
                yield from (pa.record_batch([ids_of(batch)], ["id"]) for batch in batched(lines, ROWS_PER_READ))
            else:
                yield from from_lines(lines, schema, vectors=True, read="embedding" in columns)

    def merge(self, paths: Sequence[Path], schema: pa.Schema, parts: Sequence[Source], n_rows: int) -> None:
        with lines_file(paths[0]) as file:
            for (path,), live_rows in parts:
                with pa.input_stream(path, compression="detect") as stream:
                    for lines in batched(io.BufferedReader(stream, 1 << 20), ROWS_PER_READ):
                        live = live_rows(ids_of(lines)) if live_rows else None
                        file.writelines(lines if live is None else compress(lines, live))


@contextmanager
def lines_file(path: Path) -> Iterator[BinaryIO]:
    """A new file to write lines to, compressed if its name says so."""
    compression = COMPRESSIONS.get(path.suffix)
    with new_file(path) as file:
        if compression is None:
            yield file
        else:
            # the stream closes its file, and the new one must stay open until it is on the disk
            with (
                open(os.dup(file.fileno()), "wb") as copy,
                pa.CompressedOutputStream(pa.PythonFile(copy, "w"), compression) as stream,
            ):
                writer = io.BufferedWriter(stream, 1 << 20)
                yield cast(BinaryIO, writer)
                writer.flush()
                writer.detach()
