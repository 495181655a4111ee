"""Read a GGUF's header: what the file says of itself, without its weights and without its vocabulary."""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TypeVar

from gguf_embed.errors import ModelFileError
from gguf_embed.gguf_file.constants import ARRAY, SCALAR_FORMATS, STRING, TENSOR_TYPES

Scalar = str | int | float | bool
MetadataValue = Scalar | tuple[Scalar, ...]

MAX_KEPT_ITEMS = 64
"""Arrays longer than this are skipped; their length alone is kept."""

_SUPPORTED_VERSIONS = (2, 3)
_MAX_DIMS = 4
_DEFAULT_ALIGNMENT = 32
_ScalarT = TypeVar("_ScalarT", str, int, float, bool)


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor. `shape` is in ggml's order, fastest dimension first; `offset` counts bytes from the data start."""

    name: str
    shape: tuple[int, ...]
    type: str  # ggml's name, e.g. "Q8_0"
    offset: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """A GGUF's header. The further parts of a split model have no architecture: ""."""

    path: Path
    version: int
    architecture: str
    metadata: dict[str, MetadataValue]  # scalars, and arrays of up to MAX_KEPT_ITEMS
    array_lengths: dict[str, int]  # of every array, kept or skipped
    tensors: dict[str, TensorInfo]
    data_start: int  # bytes
    size_bytes: int  # of this file

    def get(self, key: str, kind: type[_ScalarT]) -> _ScalarT | None:
        """A scalar by its full key; None when it is missing or of another type."""
        value = self.metadata.get(key)
        return value if isinstance(value, kind) else None


class _Truncated(Exception):
    """The header goes on beyond the file's end. Never leaves this file."""


class _Cursor:
    """A reading position in the mapped file; every read is checked against its end."""

    def __init__(self, data: mmap.mmap, position: int) -> None:
        self._data = data
        self.position = position

    def unpack(self, code: str) -> Scalar:
        size = struct.calcsize("<" + code)
        self.skip(size)
        value: Scalar = struct.unpack_from("<" + code, self._data, self.position - size)[0]
        return value

    def count(self) -> int:
        return int(self.unpack("Q"))

    def number(self) -> int:
        return int(self.unpack("I"))

    def string(self) -> str:
        size = self.count()
        self.skip(size)
        return self._data[self.position - size : self.position].decode("utf-8", errors="replace")

    def skip(self, size: int) -> None:
        if size > len(self._data) - self.position:
            raise _Truncated
        self.position += size

    def skip_strings(self, n_items: int) -> None:
        """Step over strings in one tight loop: a vocabulary has up to 260,000 of them."""
        data, position, end = self._data, self.position, len(self._data)
        unpack_from = struct.Struct("<Q").unpack_from
        for _ in range(n_items):
            if position + 8 > end:
                raise _Truncated
            position += 8 + int(unpack_from(data, position)[0])
        self.position = position
        self.skip(0)


def read_header(path: Path) -> GgufHeader:
    """Read and check the header of one GGUF file; weights are not touched. Takes about 10 ms for 30,000 tokens.

    Raises `ModelFileError`, one line that names the file, when it is missing, not a GGUF, of another byte order or
    version, truncated (header or tensor data), malformed, or names no architecture.
    """
    size_bytes = _check_file(path)
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _parse(path, data, size_bytes)
    except _Truncated as exc:
        raise ModelFileError(
            f"{path}: is truncated: its header goes on beyond the file's end at {size_bytes} bytes; download it again"
        ) from exc
    except OSError as exc:
        raise ModelFileError(f"{path}: cannot be read: {exc.strerror or exc}") from exc


def _check_file(path: Path) -> int:
    try:
        size_bytes = path.stat().st_size
        if path.is_dir():
            raise ModelFileError(f"{path}: is a directory; name the .gguf file in it")
    except FileNotFoundError as exc:
        raise ModelFileError(f"{path}: no such file; check the path given with -m") from exc
    except OSError as exc:
        raise ModelFileError(f"{path}: cannot be read: {exc.strerror or exc}") from exc
    if size_bytes == 0:
        raise ModelFileError(f"{path}: is empty; download it again")
    if not path.is_file():
        raise ModelFileError(f"{path}: is not a regular file")
    return size_bytes


def _parse(path: Path, data: mmap.mmap, size_bytes: int) -> GgufHeader:
    version = _read_version(path, data)
    cursor = _Cursor(data, 8)
    n_tensors, n_keys = cursor.count(), cursor.count()
    metadata, lengths = _read_metadata(path, cursor, n_keys)
    tensors = _read_tensors(path, cursor, n_tensors)
    alignment = metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
    if not isinstance(alignment, int) or alignment <= 0 or alignment & (alignment - 1):
        raise ModelFileError(f"{path}: is malformed: general.alignment is {alignment!r}, expected a power of two")
    data_start = -(-cursor.position // alignment) * alignment
    needed = max((data_start + t.offset + t.size_bytes for t in tensors.values()), default=0)
    if needed > size_bytes:
        raise ModelFileError(
            f"{path}: is truncated: its tensors need {needed} bytes, the file has {size_bytes}; download it again"
        )
    architecture = metadata.get("general.architecture", "")
    is_further_part = metadata.get("split.no", 0) != 0
    if not isinstance(architecture, str) or not (architecture or is_further_part):
        raise ModelFileError(f"{path}: names no general.architecture, so it is not a model; use another GGUF")
    return GgufHeader(path, version, architecture, metadata, lengths, tensors, data_start, size_bytes)


def _read_version(path: Path, data: mmap.mmap) -> int:
    if data[:4] != b"GGUF":
        raise ModelFileError(
            f'{path}: is not a GGUF file (it begins with {data[:4].hex(" ")}, not with "GGUF"); name a .gguf model'
        )
    version = _Cursor(data, 4).number()
    if version & 0xFFFF == 0 and version != 0:
        raise ModelFileError(f"{path}: is a big-endian GGUF, this machine reads little-endian ones; convert it")
    if version not in _SUPPORTED_VERSIONS:
        raise ModelFileError(f"{path}: is a GGUF of version {version}, supported are 2 and 3; convert the model again")
    return version


def _read_metadata(path: Path, cursor: _Cursor, n_keys: int) -> tuple[dict[str, MetadataValue], dict[str, int]]:
    metadata: dict[str, MetadataValue] = {}
    lengths: dict[str, int] = {}
    for _ in range(n_keys):
        key, kind = cursor.string(), cursor.number()
        if key in metadata or key in lengths:
            raise ModelFileError(f"{path}: is malformed: metadata key {key!r} occurs twice")
        if kind != ARRAY:
            metadata[key] = _read_scalar(path, cursor, key, kind)
            continue
        item_kind, n_items = cursor.number(), cursor.count()
        lengths[key] = n_items
        if n_items <= MAX_KEPT_ITEMS:
            metadata[key] = tuple(_read_scalar(path, cursor, key, item_kind) for _ in range(n_items))
        elif item_kind == STRING:
            cursor.skip_strings(n_items)
        else:
            cursor.skip(n_items * struct.calcsize("<" + _scalar_format(path, key, item_kind)))
    return metadata, lengths


def _read_scalar(path: Path, cursor: _Cursor, key: str, kind: int) -> Scalar:
    return cursor.string() if kind == STRING else cursor.unpack(_scalar_format(path, key, kind))


def _scalar_format(path: Path, key: str, kind: int) -> str:
    if kind not in SCALAR_FORMATS:
        raise ModelFileError(f"{path}: is malformed: metadata key {key!r} has the unknown value type {kind}")
    return SCALAR_FORMATS[kind]


def _read_tensors(path: Path, cursor: _Cursor, n_tensors: int) -> dict[str, TensorInfo]:
    tensors: dict[str, TensorInfo] = {}
    for _ in range(n_tensors):
        name, n_dims = cursor.string(), cursor.number()
        if name in tensors or n_dims > _MAX_DIMS:
            flaw = "occurs twice" if name in tensors else f"has {n_dims} dimensions"
            raise ModelFileError(f"{path}: is malformed: tensor {name!r} {flaw}")
        shape = tuple(cursor.count() for _ in range(n_dims))
        type_number, offset = cursor.number(), cursor.count()
        if type_number not in TENSOR_TYPES:
            raise ModelFileError(f"{path}: tensor {name!r} has the unknown type {type_number}; convert the model again")
        type_name, n_block, block_bytes = TENSOR_TYPES[type_number]
        size_bytes = -(-prod(shape) // n_block) * block_bytes
        tensors[name] = TensorInfo(name, shape, type_name, offset, size_bytes)
    return tensors
