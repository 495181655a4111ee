"""Writes texts and their vectors: JSON Lines, NPY, Parquet, Arrow, or a table for people."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Literal, Protocol, cast

import numpy as np
import orjson

from gguf_embed.cli.terminal import n_columns_of, padded, shortened
from gguf_embed.errors import ConfigError, WayOut, cannot_be_written
from gguf_embed.types import FloatMatrix

if TYPE_CHECKING:
    import pyarrow as pa

Format = Literal["jsonl", "npy", "parquet", "arrow", "table"]

BINARY: Final = ("npy", "parquet", "arrow")
_SUFFIXES: Final[dict[str, Format]] = {
    **dict.fromkeys((".jsonl", ".ndjson", ""), "jsonl"),
    **dict.fromkeys((".npy",), "npy"),
    **dict.fromkeys((".parquet", ".pq"), "parquet"),
    **dict.fromkeys((".arrow", ".feather", ".ipc"), "arrow"),
}
_NPY_HEADER_BYTES: Final = 128
_ROWS_PER_GROUP: Final = 8_192
_SHOWN_NUMBERS: Final = 4


class RowWriter(Protocol):
    """Writes rows of one width, in order."""

    def write(self, texts: Sequence[str], vectors: FloatMatrix) -> None: ...

    def close(self) -> None:
        """Write what is left."""
        ...

    def abandon(self) -> None:
        """Called instead of `close` after an error: what was written must not look complete."""
        ...


def format_of_path(path: Path) -> Format:
    """By its suffix; JSON Lines without one. Raises `ConfigError` for an unknown one."""
    found = _SUFFIXES.get(path.suffix.lower())
    if found is None:
        raise ConfigError(
            f"{path} has an unknown ending: use .jsonl, .npy, .parquet or .arrow, or name the format with --format"
        )
    return found


@contextmanager
def writing(format_: Format, stream: BinaryIO, *, width: int, is_file: bool) -> Iterator[RowWriter]:
    """A writer into a stream. `is_file`: the stream can seek, so NPY needs no temporary file; else Arrow is a stream.

    `width`: columns of the terminal, for the table. Raises `ConfigError` if a package is missing.
    """
    makers: dict[Format, Callable[[], RowWriter]] = {
        "jsonl": lambda: JsonLinesWriter(stream),
        "npy": lambda: NpyWriter(stream) if is_file else SpooledNpyWriter(stream),
        "parquet": lambda: ArrowWriter(_parquet_maker(stream)),
        "arrow": lambda: ArrowWriter(_ipc_maker(stream, is_file=is_file)),
        "table": lambda: TableWriter(stream, width),
    }
    yield from _closing(makers[format_]())
    stream.flush()


def _closing(writer: RowWriter) -> Iterator[RowWriter]:
    try:
        yield writer
        writer.close()
    except BaseException:
        writer.abandon()
        raise


class JsonLinesWriter:
    """One object per text."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def write(self, texts: Sequence[str], vectors: FloatMatrix) -> None:
        rows = np.ascontiguousarray(vectors)
        for text, vector in zip(texts, rows, strict=True):
            line = {"text": text, "embedding": vector}
            self._stream.write(orjson.dumps(line, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE))
        self._stream.flush()

    def close(self) -> None:
        pass

    def abandon(self) -> None:
        pass


class NpyWriter:
    """float32[n_texts, n_dims]. The header has the number of rows, so it is written last."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._shape = (0, 0)
        stream.write(bytes(_NPY_HEADER_BYTES))

    def write(self, texts: Sequence[str], vectors: FloatMatrix) -> None:
        self._shape = (self._shape[0] + len(texts), vectors.shape[1])
        self._stream.write(np.ascontiguousarray(vectors, "<f4").tobytes())

    def close(self) -> None:
        described = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {self._shape}, }}".encode()
        n_bytes = _NPY_HEADER_BYTES - 10
        self._stream.seek(0)
        self._stream.write(b"\x93NUMPY\x01\x00" + n_bytes.to_bytes(2, "little") + described.ljust(n_bytes - 1) + b"\n")

    def abandon(self) -> None:
        pass


class SpooledNpyWriter:
    """NPY for a stream that cannot seek: the rows wait in a temporary file. Raises `ModelFileError` about that file."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        with _errors_of_spool():
            self._spool = cast(BinaryIO, tempfile.TemporaryFile())  # noqa: SIM115
            self._rows = NpyWriter(self._spool)

    def write(self, texts: Sequence[str], vectors: FloatMatrix) -> None:
        with _errors_of_spool():
            self._rows.write(texts, vectors)

    def close(self) -> None:
        with _errors_of_spool():
            self._rows.close()
            self._spool.seek(0)
        shutil.copyfileobj(self._spool, self._stream)
        self._spool.close()

    def abandon(self) -> None:
        with suppress(OSError):  # what could not be written is tried again
            self._spool.close()


@contextmanager
def _errors_of_spool() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise cannot_be_written("the temporary file for NPY", error, [WayOut.OTHER_TEMPORARY]) from error


class ArrowWriter:
    """Columns `text` and `embedding`, a list of fixed size, in groups of rows."""

    def __init__(self, make: Callable[[pa.Schema], Any]) -> None:
        """`make` gives the package's own writer."""
        self._make = make
        self._writer: Any = None
        self._texts: list[str] = []
        self._vectors: list[FloatMatrix] = []

    def write(self, texts: Sequence[str], vectors: FloatMatrix) -> None:
        self._texts += texts
        self._vectors.append(vectors)
        if len(self._texts) >= _ROWS_PER_GROUP:
            self._write_group()

    def close(self) -> None:
        if self._texts:
            self._write_group()
        if self._writer is not None:
            self._writer.close()

    def abandon(self) -> None:
        if self._writer is not None:
            self._writer.is_open = False  # Parquet's would write the end of the file when it is freed

    def _write_group(self) -> None:
        import pyarrow as pa

        matrix = np.concatenate(self._vectors)
        n_dims = matrix.shape[1]
        schema = pa.schema(
            [pa.field("text", pa.string()), pa.field("embedding", pa.list_(pa.field("item", pa.float32()), n_dims))]
        )
        if self._writer is None:
            self._writer = self._make(schema)
        numbers = pa.FixedSizeListArray.from_arrays(pa.array(matrix.ravel()), n_dims)
        columns = [pa.array(self._texts, pa.string()), numbers]
        self._writer.write_batch(pa.record_batch(columns, schema=schema))
        self._texts, self._vectors = [], []


class TableWriter:
    """A line per text: its beginning, its dimensions, its first numbers."""

    def __init__(self, stream: BinaryIO, width: int) -> None:
        self._stream = stream
        self._width = width
        self._text_columns = 0

    def write(self, texts: Sequence[str], vectors: FloatMatrix) -> None:
        numbers = [_first_numbers(vector) for vector in vectors]
        if not self._text_columns:
            room = self._width - len(numbers[0]) - len("  1234  ")
            shown = [shortened(text, room) for text in texts]
            self._text_columns = max(len("TEXT"), min(room, max(map(n_columns_of, shown))))
            self._line("TEXT".ljust(self._text_columns), "DIMS", "VECTOR")
        for text, vector, first in zip(texts, vectors, numbers, strict=True):
            cell = shortened(text, self._text_columns)
            self._line(padded(cell, self._text_columns), str(len(vector)).ljust(4), first)
        self._stream.flush()

    def _line(self, *cells: str) -> None:
        self._stream.write(("  ".join(cells) + "\n").encode("utf-8", "replace"))

    def close(self) -> None:
        pass

    def abandon(self) -> None:
        pass


def _first_numbers(vector: np.ndarray[Any, Any]) -> str:
    shown = " ".join(f"{number:7.4f}" for number in vector[:_SHOWN_NUMBERS])
    return f"{shown} …" if len(vector) > _SHOWN_NUMBERS else shown


def _parquet_maker(stream: BinaryIO) -> Callable[[pa.Schema], Any]:
    try:
        import pyarrow.parquet as pq
    except ImportError:
        raise _missing("parquet") from None
    return lambda schema: pq.ParquetWriter(
        stream,
        schema,
        compression="zstd",
        compression_level=1,
        use_dictionary=False,
        use_byte_stream_split=["embedding.list.element"],
    )


def _ipc_maker(stream: BinaryIO, *, is_file: bool) -> Callable[[pa.Schema], Any]:
    try:
        import pyarrow as pa
    except ImportError:
        raise _missing("arrow") from None
    return lambda schema: (pa.ipc.new_file if is_file else pa.ipc.new_stream)(stream, schema)


def _missing(format_: str) -> ConfigError:
    return ConfigError(f"--format {format_} needs the package pyarrow: pip install 'gguf-embed[ingest]'")
