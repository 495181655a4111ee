"""Standard input: JSON Lines, or one text per line."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import BinaryIO

from gguf_embed.errors import ConfigError
from gguf_embed.ingest.rows import BadRow, DocumentBatch
from gguf_embed.ingest.sources.base import Source, SourceOptions, TextKind
from gguf_embed.ingest.sources.documents import TOO_LONG, Document, documents_of, in_batches
from gguf_embed.ingest.sources.input_file import BYTE_ORDER_MARK, bounded_lines, failures
from gguf_embed.ingest.sources.jsonl import fields_of_lines, json_rows
from gguf_embed.ingest.sources.row_file import PlacedRows

PLACE = "stdin"
OBJECT = re.compile(rb'\s*\{\s*["}]')
"""How a JSON object begins, broken or not."""


class StdinSource:
    """The first line that is not empty decides what it is. It can be read once."""

    kind: TextKind = "text"

    def __init__(self, stream: BinaryIO, options: SourceOptions) -> None:
        self._stream = stream
        self._was_read = False
        lines = bounded_lines(stream)
        self._n_empty = 0
        first: bytes | None = b""
        with failures(PLACE):
            for first in lines:
                if first is not None and self._n_empty == 0:
                    first = first.removeprefix(BYTE_ORDER_MARK)
                if first is None or first.strip():
                    break
                self._n_empty += 1
        self._lines = chain([first], lines)
        wants_fields = bool(options.text_fields or options.id_field or options.metadata)
        self._is_json = wants_fields or OBJECT.match(first or b"") is not None
        self.name = f"{PLACE} ({'JSON Lines' if self._is_json else 'one text per line'})"
        self._fields = fields_of_lines([first], options, PLACE) if self._is_json else None

    def batches(self, n_rows: int) -> Iterator[DocumentBatch]:
        if self._was_read:
            raise ConfigError("standard input can be read only once: write it to a file")
        self._was_read = True
        lines = chain([b"\n"] * self._n_empty, self._lines)
        if self._fields is None:
            documents: Iterable[Document] = self._texts(lines)
        else:
            documents = documents_of(self._rows(lines), self._fields)
        yield from in_batches(documents, n_rows)

    def _rows(self, lines: Iterable[bytes | None]) -> PlacedRows:
        place = PLACE
        with failures(lambda: f"{PLACE} after {place}"):
            for place, row in json_rows(lines, PLACE):
                yield place, row

    def _texts(self, lines: Iterable[bytes | None]) -> Iterator[Document]:
        number = 0
        with failures(lambda: f"{PLACE} after line {number}"):
            for number, line in enumerate(lines, 1):
                text = text_of_line(line)
                if text != "":
                    yield f"{PLACE}:{number}", None, text, "{}"

    def share_read(self) -> None:
        return None

    def close(self) -> None:
        """It is not ours to close."""


def text_of_line(line: bytes | None) -> str | BadRow:
    """Without the end of the line; "" if nothing but white space is left."""
    if line is None:
        return BadRow(TOO_LONG)
    try:
        text = line.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        return BadRow("is not UTF-8")
    return "" if text.isspace() else text


def open_stdin(stream: BinaryIO | None, options: SourceOptions) -> Source:
    """None: the process's own."""
    return StdinSource(stream or sys.stdin.buffer, options)
