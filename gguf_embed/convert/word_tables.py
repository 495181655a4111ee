"""Reads word-vector tables: Word2Vec's binary and text formats, GloVe's and fastText's text, and CSV, gzipped or not.

Sources: word2vec.c (a line "words dimensions", then per word its bytes, a space, little-endian floats), GloVe's files
(no such line) and fastText's .vec (Word2Vec's text). Some GloVe words contain spaces, so a row is split from its end.
"""

from __future__ import annotations

import csv
import gzip
import io
import math
import mmap
import re
import shutil
import tempfile
import zlib
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO, Final, Literal

import numpy as np
from numpy.typing import NDArray

from gguf_embed.errors import ModelFileError

TableForm = Literal["binary", "text", "comma", "semicolon"]

_GZIP: Final = b"\x1f\x8b"
_COUNTS: Final = re.compile(rb"(\d{1,10}) (\d{1,5})[ \r]*\n")
_SNIFFED_BYTES: Final = 2**20  # enough for the longest first rows
_BLOCK_VALUES: Final = 2**20
_COPIED_BYTES: Final = 2**20
_MAX_WORD_BYTES: Final = 10_000
_CASED_PER_THOUSAND: Final = 1  # a lowercase table may have a few capitals by accident
_DELIMITERS: Final[dict[TableForm, str]] = {"comma": ",", "semicolon": ";"}


@dataclass(frozen=True, slots=True)
class WordTable:
    """Each word once, and its row."""

    words: tuple[str, ...]
    rows: NDArray[np.float32]  # float32[len(words), n_embd], mapped from disk
    lowercase: bool  # no words with capitals


@dataclass(frozen=True, slots=True)
class _Shape:
    """The form of a table, recognized from its beginning."""

    form: TableForm
    n_embd: int
    n_rows: int | None  # None: the file does not say
    skip_lines: int  # before the first row


def is_word_table(path: Path) -> bool:
    """Whether the file begins like one of the formats."""
    try:
        with _opened(path) as file:
            return _recognize(file.read(_SNIFFED_BYTES)) is not None
    except (OSError, EOFError, zlib.error):
        return False


def read_word_table(path: Path, scratch: Path, report: Callable[[str], None]) -> WordTable:
    """Read the whole table; rows are kept in an unnamed file in the folder `scratch`.

    A million words take about 10 s as text. If a word occurs twice, its first row counts; rows of zeros are left out;
    both are reported. Raises `ModelFileError`, with the row's number, for rows of another length, values that are not
    finite numbers, and fewer or more rows than the first line declares.
    """
    try:
        with _unpacked(path, scratch) as plain, tempfile.TemporaryFile(dir=scratch) as stored:
            shape = _recognize(plain.read(_SNIFFED_BYTES))
            if shape is None:
                raise ModelFileError(f"{path} is not a word-vector table (rows of a word and its numbers)")
            plain.seek(0)
            rows = _binary_rows(path, plain, shape) if shape.form == "binary" else _text_rows(path, plain, shape)
            return _collect(path, rows, shape, stored, report)
    except (EOFError, zlib.error, gzip.BadGzipFile, csv.Error) as exc:
        raise ModelFileError(f"{path} is truncated or damaged ({exc}); get it again from where it came") from exc
    except OSError as exc:
        raise ModelFileError(f"{path} cannot be read: {exc.strerror or exc}") from exc


def _opened(path: Path) -> gzip.GzipFile | BinaryIO:
    with path.open("rb") as file:
        packed = file.read(2) == _GZIP
    return gzip.open(path) if packed else path.open("rb")


@contextmanager
def _unpacked(path: Path, scratch: Path) -> Iterator[IO[bytes]]:
    """The file itself, or the unpacked content of a gzipped one: the binary format needs random access."""
    with _opened(path) as file:
        if not isinstance(file, gzip.GzipFile):
            yield file
            return
        with tempfile.TemporaryFile(dir=scratch) as plain:
            shutil.copyfileobj(file, plain, _COPIED_BYTES)
            plain.seek(0)
            yield plain


def _recognize(start: bytes) -> _Shape | None:
    counts = _COUNTS.match(start)
    if counts is not None:
        n_rows, n_embd = int(counts[1]), int(counts[2])
        if n_rows == 0 or n_embd == 0:
            return None
        second = start[counts.end() :].split(b"\n", 1)[0].decode("utf-8", "replace")
        values = _split(second, n_embd)
        return _Shape("binary" if values is None or not _numbers(values[1]) else "text", n_embd, n_rows, 1)
    lines = start.decode("utf-8", "replace").split("\n")[:2]
    for n_skipped, line in enumerate(lines):
        shape = _shape_of_row(line, n_skipped)
        if shape is not None:
            return shape
    return None


def _shape_of_row(line: str, n_skipped: int) -> _Shape | None:
    """The form of a row with a word and at least two numbers; None for anything else, such as column names."""
    fields = line.replace("\t", " ").strip(" \r").split(" ")
    if len(fields) > 2 and _numbers(fields[1:]):
        return _Shape("text", len(fields) - 1, None, n_skipped)
    for form, delimiter in _DELIMITERS.items():
        try:
            fields = next(csv.reader([line.rstrip("\r")], delimiter=delimiter), [])
        except csv.Error:  # an extremely long field
            continue
        if len(fields) > 2 and _numbers(fields[1:]):
            return _Shape(form, len(fields) - 1, None, n_skipped)
    return None


def _split(line: str, n_embd: int) -> tuple[str, list[str]] | None:
    """Word and values of a row, split from its end because some words contain spaces. None if values are missing."""
    word, *values = line.replace("\t", " ").rstrip(" \r\n").rsplit(" ", n_embd)
    return (word, values) if len(values) == n_embd else None


def _numbers(fields: list[str]) -> bool:
    try:
        return all(math.isfinite(float(field)) for field in fields)
    except ValueError:
        return False


_Row = tuple[str, "array[float]"]


def _text_rows(path: Path, file: IO[bytes], shape: _Shape) -> Iterator[_Row]:
    lines = io.TextIOWrapper(file, encoding="utf-8", errors="replace", newline="\n")
    for _ in range(shape.skip_lines):
        lines.readline()
    for number, (word, values) in enumerate(_split_rows(lines, shape), start=1):
        try:
            numbers = array("f", map(float, values))
        except (ValueError, OverflowError) as exc:
            raise ModelFileError(f"{path}: row {number} ({word!r}) is not a word and its numbers") from exc
        if len(numbers) != shape.n_embd:
            raise ModelFileError(
                f"{path}: row {number:,} does not have {shape.n_embd} numbers like the first; correct the row or "
                "remove it"
            )
        yield word, numbers
    lines.detach()


def _split_rows(lines: io.TextIOWrapper, shape: _Shape) -> Iterator[tuple[str, list[str]]]:
    """Word and values of each row that is not empty; no values for a row that has too few."""
    delimiter = _DELIMITERS.get(shape.form)
    if delimiter is not None:
        for fields in csv.reader(lines, delimiter=delimiter):
            if fields:
                yield fields[0], fields[1:]
        return
    for line in lines:
        if not line.isspace():
            yield _split(line, shape.n_embd) or ("", [])


def _binary_rows(path: Path, file: IO[bytes], shape: _Shape) -> Iterator[_Row]:
    row_bytes = 4 * shape.n_embd
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        position = data.find(b"\n") + 1
        for number in range(1, (shape.n_rows or 0) + 1):
            space = data.find(b" ", position, position + _MAX_WORD_BYTES)
            if space < 0 or space + 1 + row_bytes > len(data):
                raise ModelFileError(f"{path} ends in row {number:,} of {shape.n_rows:,}, so it is not complete")
            word = data[position:space].lstrip(b"\n").decode("utf-8", "replace")
            position = space + 1 + row_bytes
            yield word, array("f", data[space + 1 : position])


def _collect(
    path: Path, rows: Iterator[_Row], shape: _Shape, stored: IO[bytes], report: Callable[[str], None]
) -> WordTable:
    words: dict[str, None] = {}
    block = array("f")
    n_read = n_repeated = n_zero = 0
    for word, values in rows:
        n_read += 1
        if word in words:
            n_repeated += 1
        elif not any(values):
            n_zero += 1
        else:
            words[word] = None
            block.extend(values)
        if len(block) >= _BLOCK_VALUES:
            _store(path, block, stored)
            del block[:]
    _store(path, block, stored)
    stored.flush()
    if shape.n_rows is not None and n_read != shape.n_rows:
        declared = f"its first line declares {shape.n_rows:,} rows"
        raise ModelFileError(
            f"{path}: {declared}, but it has {n_read:,}; the file is incomplete, or its first line is wrong"
        )
    if not words:
        raise ModelFileError(f"{path} has no word with a vector other than zero")
    if n_repeated:
        report(f"{n_repeated} rows repeat an earlier word: left out")
    if n_zero:
        report(f"{n_zero} words have only zeros: left out, so they count as unknown")
    table = np.memmap(stored, np.float32, "r", shape=(len(words), shape.n_embd)).view(np.ndarray)
    return WordTable(tuple(words), table, _is_lowercase(words))


def _store(path: Path, block: array[float], stored: IO[bytes]) -> None:
    if not np.isfinite(np.frombuffer(block, np.float32)).all():
        raise ModelFileError(f"{path} contains values that are not finite numbers")
    block.tofile(stored)


def _is_lowercase(words: dict[str, None]) -> bool:
    n_cased = sum(word.lower() != word for word in words)
    return n_cased * 1000 <= len(words) * _CASED_PER_THOUSAND
