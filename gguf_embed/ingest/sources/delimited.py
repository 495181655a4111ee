"""CSV and TSV, with names of the columns in the first line. Every value stays the text that it is."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from gguf_embed.errors import ConfigError, EngineFailure
from gguf_embed.ingest.rows import BadRow
from gguf_embed.ingest.sources.base import Source, SourceOptions
from gguf_embed.ingest.sources.documents import TOO_LONG
from gguf_embed.ingest.sources.fields import TEXT, Fields, choose_fields, refuse_doubled
from gguf_embed.ingest.sources.input_file import InputFile, bounded_lines
from gguf_embed.ingest.sources.row_file import PlacedRows, RowFileSource

MAX_VALUE_CHARACTERS = 16 << 20
"""The csv module needs four bytes for each."""

UNCLOSED = "unexpected end of data"
"""How the csv module says that a quoted value has no end."""


class DecodedLines:
    """Text for the csv module, and what it cannot be told: why the lines of the current row cannot be used."""

    def __init__(self, lines: Iterator[bytes | None]) -> None:
        self._lines = lines
        self.reason = ""

    def __iter__(self) -> Iterator[str]:
        for line in self._lines:
            if line is None:
                self.reason = TOO_LONG
                yield "\n"
                continue
            try:
                yield line.decode()
            except UnicodeDecodeError:
                self.reason = "is not UTF-8"
                yield line.decode(errors="replace")

    def take_reason(self) -> str:
        reason, self.reason = self.reason, ""
        return reason


class DelimitedSource(RowFileSource):
    """A file. Its first line that is not empty is the header."""

    def choose(self, file: InputFile, options: SourceOptions) -> Fields:
        header = next((row for _, row in self._read(file)), None)
        if header is None:
            return choose_fields(options, {}, self.name, fixed=False)
        if isinstance(header, BadRow):
            raise ConfigError(f"the header of {self.name} {header.reason}")
        fields = choose_fields(options, dict.fromkeys(header, TEXT), self.name)
        refuse_doubled(header, fields, self.name)
        return fields

    def rows(self, file: InputFile) -> PlacedRows:
        header: list[str] = []
        for place, row in self._read(file):
            if isinstance(row, BadRow):
                yield place, row
            elif not header:
                header = row
            elif len(row) == len(header):
                yield place, dict(zip(header, row, strict=True))
            else:
                yield place, BadRow(f"has {len(row)} columns, the header has {len(header)}")

    def _read(self, file: InputFile) -> Iterator[tuple[str, list[str] | BadRow]]:
        """The rows and their places, the header included. A place is the number of the first of a row's lines."""
        raw = bounded_lines(file.stream)
        first = next(raw, b"")
        lines = DecodedLines(chain([first], raw))
        reader = csv.reader(iter(lines), delimiter=self._delimiter(first or b""), strict=True)
        while True:
            place = f"{self.name}:{reader.line_num + 1}"
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield place, refused(error, place)
                continue
            if lines.reason:
                yield place, BadRow(lines.take_reason())
            elif row:
                yield place, row

    def _delimiter(self, first: bytes) -> str:
        """A tab for .tsv; a semicolon or a tab for a .csv whose first line has no comma."""
        if {".tsv", ".tab"}.intersection(ending.lower() for ending in self._path.suffixes):
            return "\t"
        if b"," not in first:
            return next((mark.decode() for mark in (b";", b"\t") if mark in first), ",")
        return ","


def refused(error: csv.Error, place: str) -> BadRow:
    """Raises `EngineFailure` if the end of the row is unknown: the rows after it cannot be told from it."""
    reason = str(error)
    if reason == UNCLOSED:
        raise EngineFailure(f"{place} opens a quote that is never closed")
    if "field limit" in reason:
        raise EngineFailure(
            f"{place} has a value of more than {MAX_VALUE_CHARACTERS >> 20} Mi characters: is a quote not closed?"
        )
    return BadRow(f"is not CSV: {reason}")


def open_delimited(path: Path, name: str, options: SourceOptions) -> Source:
    csv.field_size_limit(max(csv.field_size_limit(), MAX_VALUE_CHARACTERS))
    return DelimitedSource(path, name, options)
