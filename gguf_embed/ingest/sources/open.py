"""From what a user names to a source: a file, a folder, a database's URL, or "-" for standard input."""

from __future__ import annotations

import stat
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import BinaryIO, cast

from gguf_embed.errors import ConfigError
from gguf_embed.ingest.sources.base import Source, SourceOptions
from gguf_embed.ingest.sources.file_kinds import (
    COMPRESSED_KINDS,
    ROW_SUFFIXES,
    TEXT_SUFFIXES,
    files_in,
    printable,
    row_kind,
    text_kind,
)

OPENERS: Mapping[str, str] = {
    "jsonl": "jsonl:open_jsonl",
    "csv": "delimited:open_delimited",
    "parquet": "parquet:open_parquet",
    "text": "text_files:open_text_file",
    "text folder": "text_files:open_text_folder",
    "dataset": "huggingface:open_dataset",
    "sqlite": "sqlite:open_sqlite",
    "postgresql": "postgres:open_postgres",
    "postgres": "postgres:open_postgres",
    "stdin": "stdin:open_stdin",
}
"""Kind → module and function in `gguf_embed.ingest.sources`."""

DATABASES = ("sqlite", "postgresql", "postgres")
PREFIXES = ("jsonl", "csv", "parquet", "text")
"""May be written before a path: `jsonl:export.dat`, `text:docs`."""

OpenFile = Callable[[Path, str, SourceOptions], Source]


def open_source(location: str, options: SourceOptions, *, stdin: BinaryIO | None = None) -> Source:
    """`stdin` is read for "-"; None: the process's own.

    Raises `ConfigError` for what is not there, is no source, or lacks the named fields, and other `EmbedError`s if it
    cannot be read.
    """
    scheme, colon, rest = location.partition(":")
    if colon and scheme.lower() in DATABASES:
        open_database = cast(Callable[[str, SourceOptions], Source], _opener(scheme.lower()))
        return open_database(location, options)
    if options.query:
        raise ConfigError(f"a query needs a database (postgresql://… or sqlite:…), {printable(location)!r} is none")
    if location == "-":
        return cast(Callable[[BinaryIO | None, SourceOptions], Source], _opener("stdin"))(stdin, options)
    kind = scheme if colon and scheme in PREFIXES and not Path(location).exists() else ""
    path = Path(rest if kind else location).expanduser()
    try:
        mode = path.stat().st_mode
    except OSError:
        raise ConfigError(f"there is no file or folder {printable(str(path))}") from None
    if stat.S_ISDIR(mode):
        return _open_folder(path, kind, options)
    if not stat.S_ISREG(mode):
        raise ConfigError(f"{path} is not a file: pipe it into standard input, whose name is -")
    return _open_file(path, kind, options)


def _open_file(path: Path, kind: str, options: SourceOptions) -> Source:
    found = kind or row_kind(path.name) or ("text" if text_kind(path.name) else "")
    if not found and path.suffix.lower() == ".json":
        found = "jsonl"
    if not found:
        endings = ", ".join((*ROW_SUFFIXES, *TEXT_SUFFIXES))
        raise ConfigError(
            f"{printable(path.name)} has none of the endings {endings} (and .gz, .zst, .bz2, .lz4 after those of "
            f"{', '.join(COMPRESSED_KINDS)}): write what it is before it, for example jsonl:{printable(str(path))}"
        )
    return cast(OpenFile, _opener(found))(path, printable(path.name), options)


def _open_folder(folder: Path, kind: str, options: SourceOptions) -> Source:
    name = printable(str(folder))
    if not kind and ((folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file()):
        return cast(OpenFile, _opener("dataset"))(folder, name, options)
    row_kinds, has_texts = _kinds_in(folder)
    if kind:
        row_kinds, has_texts = row_kinds & {kind}, has_texts and kind == "text"
    if row_kinds and has_texts:
        kinds = ", ".join(sorted(row_kinds))
        raise ConfigError(
            f"{name} has both documents and files of rows ({kinds}): write which of them, as text:{name} or "
            f"{min(row_kinds)}:{name}"
        )
    if row_kinds:
        return _open_row_files(folder, name, row_kinds, options)
    if has_texts:
        return cast(OpenFile, _opener("text folder"))(folder, name, options)
    wanted = [*([] if kind == "text" else ROW_SUFFIXES), *(TEXT_SUFFIXES if kind in ("", "text") else [])]
    wanted = [ending for ending in wanted if kind in ("", "text", ROW_SUFFIXES.get(ending))]
    raise ConfigError(f"{name} has no files that end in {', '.join(wanted)}")


def _kinds_in(folder: Path) -> tuple[set[str], bool]:
    """The kinds of its files with rows; whether it has documents."""
    row_kinds: set[str] = set()
    has_texts = False
    for relative, _ in files_in(folder):
        kind = row_kind(relative)
        if kind:
            row_kinds.add(kind)
        elif text_kind(relative):
            has_texts = True
    return row_kinds, has_texts


def _open_row_files(folder: Path, name: str, kinds: set[str], options: SourceOptions) -> Source:
    from gguf_embed.ingest.sources.row_files import RowFile, RowFilesSource

    files = []
    for relative, path in files_in(folder):
        kind = row_kind(relative)
        if kind in kinds:
            files.append(RowFile(path, printable(relative), cast(OpenFile, _opener(kind))))
    return RowFilesSource(name, files, options)


def _opener(kind: str) -> object:
    module, _, function = OPENERS[kind].partition(":")
    return getattr(import_module(f"gguf_embed.ingest.sources.{module}"), function)
