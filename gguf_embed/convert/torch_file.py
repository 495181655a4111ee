"""Reads the tensors of a `.pt` file that torch.save wrote, without torch and without running what a pickle may run.

The file is a zip with a pickle of references and one entry of raw data per storage. The pickle may only rebuild
tensors; anything else is refused. Source: torch/serialization.py and torch/_utils.py, `_rebuild_tensor_v2`.
"""

from __future__ import annotations

import io
import pickle
import zipfile
import zlib
from collections import OrderedDict
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gguf_embed.errors import ModelFileError

MAX_BYTES = 2**30
"""A larger entry is refused: a head has a few megabytes."""

_DTYPES = {"FloatStorage": "<f4", "HalfStorage": "<f2", "BFloat16Storage": "<u2"}

_MALFORMED = (
    *(zipfile.BadZipFile, zlib.error, StopIteration, EOFError),
    *(pickle.UnpicklingError, LookupError, ValueError, TypeError, AttributeError, ArithmeticError),
    *(RuntimeError, MemoryError),  # an encrypted or unknown entry, and sizes that nothing has
)
"""What reading a damaged file raises."""

_Storage = tuple[str, bytes]


def read_torch_file(path: Path) -> dict[str, NDArray[np.float32]]:
    """All tensors of a state dict by name, as float32. Raises `ModelFileError` for anything else."""
    try:
        with zipfile.ZipFile(path) as archive:
            entry = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
            loaded = _Unpickler(archive, entry.removesuffix("data.pkl")).load()
    except OSError as exc:
        raise ModelFileError(f"{path} cannot be read: {exc.strerror or exc}") from exc
    except _MALFORMED as exc:
        raise ModelFileError(f"{path} is not a file of tensors that torch.save wrote ({exc})") from exc
    if not isinstance(loaded, dict) or not all(isinstance(value, np.ndarray) for value in loaded.values()):
        raise ModelFileError(f"{path} is not a state dict, a dictionary of tensors")
    return {str(name): tensor for name, tensor in loaded.items()}


class _Unpickler(pickle.Unpickler):
    """Admits calls that rebuild tensors, and nothing else."""

    def __init__(self, archive: zipfile.ZipFile, folder: str) -> None:
        super().__init__(io.BytesIO(_read(archive, folder + "data.pkl")))
        self._archive = archive
        self._folder = folder

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch" and name in _DTYPES:
            return name
        raise pickle.UnpicklingError(f"it calls {module}.{name}, which no tensor needs")

    def persistent_load(self, reference: Any) -> _Storage:
        """A storage: its type and its bytes."""
        kind, storage_type, key, *_ = reference
        if kind != "storage" or storage_type not in _DTYPES or not str(key).isalnum():
            raise pickle.UnpicklingError(f"it refers to {reference!r}")
        return storage_type, _read(self._archive, f"{self._folder}data/{key}")


def _read(archive: zipfile.ZipFile, name: str) -> bytes:
    if archive.getinfo(name).file_size > MAX_BYTES:
        raise ValueError(f"{name} has over {MAX_BYTES:,} bytes")
    return archive.read(name)


def _rebuild_tensor(
    storage: _Storage, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: object
) -> NDArray[np.float32]:
    """Only contiguous tensors, which is how parameters are saved."""
    storage_type, data = storage
    contiguous = tuple(prod(size[at + 1 :]) for at in range(len(size)))
    if any(found != wanted for found, wanted, n in zip(stride, contiguous, size, strict=True) if n > 1):
        raise ValueError(f"a tensor of shape {size} has the strides {stride}")
    values = np.frombuffer(data, _DTYPES[storage_type])[offset : offset + prod(size)].reshape(size)
    if storage_type == "BFloat16Storage":
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32)
