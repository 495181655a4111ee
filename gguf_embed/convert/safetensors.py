"""Reads tensors from safetensors files with only numpy: a JSON header, then raw little-endian data."""

from __future__ import annotations

import json
import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gguf_embed.errors import ModelFileError

_MAX_HEADER_BYTES = 100_000_000  # the format's own limit
_ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2}
_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """The location of one tensor. `begin` and `end` are byte offsets in the file."""

    path: Path
    dtype: str  # safetensors' name: "F32", "BF16", "I64"…
    shape: tuple[int, ...]
    begin: int
    end: int


def list_tensors(directory: Path) -> dict[str, StoredTensor]:
    """Every tensor of a model directory, from `model.safetensors` or from the shards listed in its index.

    Reads headers only. Raises `ModelFileError` for a missing, truncated or malformed file.
    """
    tensors: dict[str, StoredTensor] = {}
    for path in _weight_files(directory):
        tensors.update(_read_header(path))
    return tensors


def most_common_type(tensors: Mapping[str, StoredTensor]) -> str:
    """The type of most bytes; "" without tensors."""
    n_bytes: Counter[str] = Counter()
    for tensor in tensors.values():
        n_bytes[tensor.dtype] += tensor.end - tensor.begin
    return n_bytes.most_common(1)[0][0] if n_bytes else ""


def read_float32(tensor: StoredTensor) -> NDArray[np.float32]:
    """The tensor's values as float32 in its own shape; mapped from disk if stored as F32.

    Raises `ModelFileError` for types that are not F32, F16 or BF16.
    """
    if tensor.dtype not in _ITEM_BYTES:
        raise ModelFileError(f"{tensor.path}: tensors of type {tensor.dtype} cannot be converted (only F32, F16, BF16)")
    stored = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}[tensor.dtype]
    data = np.memmap(tensor.path, dtype=stored, mode="r", offset=tensor.begin, shape=tensor.shape)
    if tensor.dtype == "BF16":
        return (data.astype(np.uint32) << 16).view(np.float32)
    return np.asarray(data, dtype=np.float32)


def _weight_files(directory: Path) -> list[Path]:
    if (directory / _SINGLE).is_file():
        return [directory / _SINGLE]
    if not (directory / _INDEX).is_file():
        raise ModelFileError(
            f"{directory}: has no {_SINGLE}; only safetensors weights can be converted; transformers writes them with "
            "AutoModel.from_pretrained(DIR).save_pretrained(DIR)"
        )
    try:
        index = json.loads((directory / _INDEX).read_text(encoding="utf-8"))
        names = sorted(set(index["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError) as exc:
        raise ModelFileError(f"{directory / _INDEX}: is not a safetensors index") from exc
    if any(not isinstance(name, str) or Path(name).name != name for name in names):
        raise ModelFileError(f"{directory / _INDEX}: names files outside its directory")
    return [directory / name for name in names]


def _read_header(path: Path) -> dict[str, StoredTensor]:
    try:
        size_bytes = path.stat().st_size
        with path.open("rb") as file:
            (n_header,) = struct.unpack("<Q", file.read(8))
            if n_header > min(size_bytes - 8, _MAX_HEADER_BYTES):
                raise ModelFileError(f"{path} is truncated or not a safetensors file; download it again")
            header = json.loads(file.read(n_header))
        entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
        return {name: _parse_entry(path, name, entry, 8 + n_header, size_bytes) for name, entry in entries.items()}
    except OSError as exc:
        raise ModelFileError(f"{path} cannot be read: {exc.strerror or exc}") from exc
    except (struct.error, ValueError, KeyError, TypeError, AttributeError) as exc:
        raise ModelFileError(f"{path} is truncated or not a safetensors file; download it again") from exc


def _parse_entry(path: Path, name: str, entry: dict[str, Any], data_start: int, size_bytes: int) -> StoredTensor:
    shape = tuple(int(n) for n in entry["shape"])
    begin, end = (int(n) + data_start for n in entry["data_offsets"])
    if end > size_bytes:
        raise ModelFileError(
            f"{path} is truncated: tensor {name} ends at byte {end:,}, but the file has {size_bytes:,} bytes; "
            "download it again"
        )
    item_bytes = _ITEM_BYTES.get(entry["dtype"])
    if not data_start <= begin <= end or (item_bytes is not None and prod(shape) * item_bytes != end - begin):
        raise ModelFileError(f"{path}: tensor {name} has offsets that do not fit its shape; download the file again")
    return StoredTensor(path, str(entry["dtype"]), shape, begin, end)
