"""Which kind of file a name means, and the files of a folder in a fixed order."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from gguf_embed.errors import EngineFailure
from gguf_embed.ingest.sources.input_file import COMPRESSIONS, reason_of

ROW_SUFFIXES: Mapping[str, str] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "csv",
    ".tab": "csv",
    ".parquet": "parquet",
    ".pq": "parquet",
}
TEXT_SUFFIXES: Mapping[str, str] = {
    ".md": "markdown",
    ".markdown": "markdown",
    ".txt": "text",
    ".rst": "text",
    ".pdf": "pdf",
    ".html": "html",
    ".htm": "html",
}
COMPRESSED_KINDS = ("jsonl", "csv")


def row_kind(name: str) -> str | None:
    """ "jsonl" for "a.jsonl.gz"; None for a file without rows."""
    stem, suffix = os.path.splitext(name.lower())
    if suffix not in COMPRESSIONS:
        return ROW_SUFFIXES.get(suffix)
    kind = ROW_SUFFIXES.get(os.path.splitext(stem)[1])
    return kind if kind in COMPRESSED_KINDS else None


def text_kind(name: str) -> str | None:
    """ "markdown" for "a.md"; None for a file that is not a document."""
    return TEXT_SUFFIXES.get(os.path.splitext(name.lower())[1])


def files_in(folder: Path) -> Iterator[tuple[str, Path]]:
    """All files below, with their relative paths, in order of their names, folder by folder.

    Left out: hidden files and folders, and a folder that a link shows a second time. Raises `EngineFailure` for a
    folder that cannot be listed, because its files would seem to be gone.
    """
    yield from _below(str(folder), "", set())


def _below(folder: str, prefix: str, seen: set[tuple[int, int]]) -> Iterator[tuple[str, Path]]:
    try:
        status = os.stat(folder)
        with os.scandir(folder) as scanned:
            entries = sorted((entry for entry in scanned if not entry.name.startswith(".")), key=lambda each: each.name)
    except OSError as error:
        raise EngineFailure(f"the folder {printable(folder)} cannot be listed: {reason_of(error)}") from error
    if (status.st_dev, status.st_ino) in seen:
        return
    seen.add((status.st_dev, status.st_ino))
    for entry in entries:
        if _is_folder(entry):
            yield from _below(entry.path, f"{prefix}{entry.name}/", seen)
        elif _is_file(entry):
            yield prefix + entry.name, Path(entry.path)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:
        return False


def printable(name: str) -> str:
    """With escapes for bytes that are not UTF-8."""
    return name.encode(errors="backslashreplace").decode()
