"""Files that are one document each: text, Markdown, PDF, HTML; a folder of them or one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from pathlib import Path

from gguf_embed.errors import ConfigError
from gguf_embed.ingest.rows import BadRow, DocumentBatch
from gguf_embed.ingest.sources.base import Source, SourceOptions, TextKind
from gguf_embed.ingest.sources.documents import MAX_TEXT_BYTES, TOO_LONG, Document, in_batches
from gguf_embed.ingest.sources.file_kinds import files_in, printable, text_kind
from gguf_embed.ingest.sources.input_file import BYTE_ORDER_MARK, reason_of

ReadText = Callable[[Path], "str | BadRow"]

EXTRACTORS: Mapping[str, str] = {"pdf": "pdf:pdf_reader", "html": "html:html_reader"}
"""Kind → module and function here that gives a `ReadText`, or raises `ConfigError` if its package is missing."""

MARKDOWN_KINDS = ("markdown", "html")
"""HTML is turned into Markdown."""


class TextFilesSource:
    """Ids and places are the paths in the folder, with slashes."""

    def __init__(self, name: str, list_files: Callable[[], Iterator[tuple[str, Path]]]) -> None:
        """`list_files` gives relative paths and files, in the same order each time."""
        self.name = name
        self._list_files = list_files
        self._readers: dict[str, ReadText] = {"text": read_utf8, "markdown": read_utf8}
        kinds = [text_kind(relative) for relative, _ in list_files()]
        self._n_files = len(kinds)
        self._n_read = 0
        self.kind: TextKind = "markdown" if set(kinds).intersection(MARKDOWN_KINDS) else "text"

    def batches(self, n_rows: int) -> Iterator[DocumentBatch]:
        self._n_read = 0
        return in_batches(self._documents(), n_rows)

    def _documents(self) -> Iterator[Document]:
        for relative, path in self._list_files():
            place = printable(relative)
            text = self._read(text_kind(relative) or "text", path)
            if place != relative:
                yield place, None, BadRow("has a name that is not UTF-8"), "{}"
            elif isinstance(text, str) and (not text or text.isspace()):
                yield place, place, BadRow("is empty"), "{}"
            else:
                yield place, place, text, "{}"
            self._n_read += 1

    def _read(self, kind: str, path: Path) -> str | BadRow:
        if kind not in self._readers:
            self._readers[kind] = _reader_or_excuse(kind)
        try:
            if kind != "pdf" and path.stat().st_size > MAX_TEXT_BYTES:
                return BadRow(TOO_LONG)
            return self._readers[kind](path)
        except OSError as error:
            return BadRow(f"cannot be read: {reason_of(error)}")

    def share_read(self) -> float:
        return min(1.0, self._n_read / self._n_files) if self._n_files else 1.0

    def close(self) -> None:
        """Nothing is open between two batches."""


def read_utf8(path: Path) -> str | BadRow:
    """Line ends stay as they are."""
    content = path.read_bytes().removeprefix(BYTE_ORDER_MARK)
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        return BadRow(f"is not UTF-8: byte {error.start} is 0x{content[error.start]:02x}")


def reader_of(kind: str) -> ReadText:
    """For a kind of `EXTRACTORS`."""
    module, _, function = EXTRACTORS[kind].partition(":")
    reader: ReadText = getattr(import_module(f"gguf_embed.ingest.sources.{module}"), function)()
    return reader


def _reader_or_excuse(kind: str) -> ReadText:
    try:
        return reader_of(kind)
    except ConfigError as error:
        reason = error.message
        return lambda path: BadRow(reason)


def open_text_folder(folder: Path, name: str, options: SourceOptions) -> Source:
    """The files in it whose names are those of documents."""
    return TextFilesSource(name, lambda: (found for found in files_in(folder) if text_kind(found[0])))


def open_text_file(path: Path, name: str, options: SourceOptions) -> Source:
    """Raises `ConfigError` if the package for this kind is missing."""
    kind = text_kind(path.name) or "text"
    if kind in EXTRACTORS:
        reader_of(kind)
    return TextFilesSource(name, lambda: iter([(path.name, path)]))
