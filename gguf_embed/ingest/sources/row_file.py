"""What sources have in common that read one file of rows from its beginning to its end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from gguf_embed.ingest.rows import BadRow, DocumentBatch
from gguf_embed.ingest.sources.base import SourceOptions, TextKind
from gguf_embed.ingest.sources.documents import documents_of, in_batches
from gguf_embed.ingest.sources.fields import Fields, Row
from gguf_embed.ingest.sources.input_file import InputFile, failures

PlacedRows = Iterator[tuple[str, Row | BadRow]]
"""Pairs of place and row."""


class RowFileSource:
    """Opened once to choose the fields, and again at each reading."""

    kind: TextKind = "text"

    def __init__(self, path: Path, name: str, options: SourceOptions) -> None:
        """`name`: of the file, as places and errors have it. Raises `ConfigError` if the fields cannot be chosen."""
        self.name = name
        self._path = path
        self._file: InputFile | None = None
        self._share = 0.0
        file = InputFile(path, name)
        try:
            with failures(name):
                self._fields = self.choose(file, options)
        finally:
            file.close()

    def choose(self, file: InputFile, options: SourceOptions) -> Fields:
        raise NotImplementedError

    def rows(self, file: InputFile) -> PlacedRows:
        raise NotImplementedError

    def batches(self, n_rows: int) -> Iterator[DocumentBatch]:
        self.close()
        self._share = 0.0
        self._file = InputFile(self._path, self.name)
        try:
            yield from in_batches(documents_of(self._named(self._file), self._fields), n_rows)
            self._share = 1.0
        finally:
            self.close()

    def _named(self, file: InputFile) -> PlacedRows:
        place = self.name
        with failures(lambda: self.name if place == self.name else f"{self.name} after {place}"):
            for place, row in self.rows(file):
                yield place, row

    def share_read(self) -> float:
        return self._file.share_read() if self._file else self._share

    def close(self) -> None:
        if self._file:
            self._file.close()
            self._file = None
