"""JSON Lines: one object per line."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import orjson

from gguf_embed.errors import ConfigError
from gguf_embed.ingest.rows import BadRow
from gguf_embed.ingest.sources.base import Source, SourceOptions
from gguf_embed.ingest.sources.documents import TOO_LONG
from gguf_embed.ingest.sources.fields import Fields, choose_fields, columns_of, type_in_words
from gguf_embed.ingest.sources.input_file import InputFile, bounded_lines, first_lines
from gguf_embed.ingest.sources.row_file import PlacedRows, RowFileSource

N_FIRST_LINES = 100
"""They tell which fields there are."""


class JsonlSource(RowFileSource):
    """A file."""

    def choose(self, file: InputFile, options: SourceOptions) -> Fields:
        if file.stream.peek(1).lstrip().startswith(b"["):
            raise ConfigError(
                f"{self.name} is one JSON array, not one object per line: convert it with "
                f"jq -c '.[]' {self.name} > {self.name.partition('.')[0]}.jsonl"
            )
        lines = first_lines(bounded_lines(file.stream), N_FIRST_LINES)
        return fields_of_lines(lines, options, self.name)

    def rows(self, file: InputFile) -> PlacedRows:
        return json_rows(bounded_lines(file.stream), self.name)


def fields_of_lines(lines: Iterable[bytes | None], options: SourceOptions, where: str) -> Fields:
    """From the first lines."""
    rows = [row for _, row in json_rows(lines, where) if not isinstance(row, BadRow)]
    return choose_fields(options, columns_of(rows), where, fixed=False)


def json_rows(lines: Iterable[bytes | None], name: str) -> PlacedRows:
    """Each line that is not empty; its place is "<name>:<number of the line>"."""
    loads = orjson.loads
    for number, line in enumerate(lines, 1):
        if line is None:
            yield f"{name}:{number}", BadRow(TOO_LONG)
            continue
        try:
            row = loads(line)
        except orjson.JSONDecodeError as error:
            if line.strip():
                yield f"{name}:{number}", BadRow(f"is not JSON: {error.msg} at column {error.colno}")
            continue
        if isinstance(row, dict):
            yield f"{name}:{number}", row
        else:
            yield f"{name}:{number}", BadRow(f"is {type_in_words(row)}, not a JSON object")


def open_jsonl(path: Path, name: str, options: SourceOptions) -> Source:
    return JsonlSource(path, name, options)
