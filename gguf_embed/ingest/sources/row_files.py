"""Several files of rows, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from gguf_embed.ingest.rows import DocumentBatch
from gguf_embed.ingest.sources.base import Source, SourceOptions, TextKind
from gguf_embed.ingest.sources.input_file import failures

Opener = Callable[[Path, str, SourceOptions], Source]
"""From a file, its name in places and errors, and the options."""


@dataclass(frozen=True, slots=True)
class RowFile:
    """One of the files."""

    path: Path
    name: str
    open: Opener


class RowFilesSource:
    """The first file is opened at once, so that wrong fields are an error at the start; the others when it is their
    turn."""

    kind: TextKind = "text"

    def __init__(self, name: str, files: Sequence[RowFile], options: SourceOptions) -> None:
        self.name = name
        self._files = files
        self._options = options
        with failures(name):
            self._sizes = [file.path.stat().st_size for file in files]
        self._bytes_before = 0
        self._size = 0  # of the current one
        self._source: Source | None = None
        if files:
            self._open(files[0]).close()

    def batches(self, n_rows: int) -> Iterator[DocumentBatch]:
        self.close()
        self._bytes_before = self._size = 0
        try:
            for file, size in zip(self._files, self._sizes, strict=True):
                self._source, self._size = self._open(file), size
                yield from self._source.batches(n_rows)
                self.close()
                self._bytes_before, self._size = self._bytes_before + size, 0
        finally:
            self.close()

    def _open(self, file: RowFile) -> Source:
        return file.open(file.path, file.name, self._options)

    def share_read(self) -> float:
        total = sum(self._sizes)
        current = (self._source.share_read() or 0.0) * self._size if self._source else 0.0
        return (self._bytes_before + current) / total if total else 1.0

    def close(self) -> None:
        if self._source:
            self._source.close()
            self._source = None
