"""Reads arrays of numbers from a GGUF's metadata, such as the matrix of a head."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gguf_embed.errors import ModelFileError
from gguf_embed.gguf_file.constants import SCALAR_FORMATS
from gguf_embed.gguf_file.walker import MalformedHeader, TruncatedHeader, open_walker


def read_number_arrays(path: Path, keys: Collection[str]) -> dict[str, NDArray[np.generic]]:
    """The arrays under `keys`, one-dimensional, in the types of the file; those that it does not have are left out.

    For files that `read_header` has checked. Raises `ModelFileError` for an array of anything but numbers, and when
    the file has changed since it was checked.
    """
    found: dict[str, NDArray[np.generic]] = {}
    try:
        with open_walker(path) as walker:
            walker.version()
            walker.count()  # of tensors
            for _ in range(walker.count()):
                entry = walker.entry()
                if entry.key not in keys:
                    walker.skip_value(entry)
                    continue
                if entry.item_type not in SCALAR_FORMATS:
                    raise ModelFileError(f"{path}: {entry.key} is not a list of numbers; convert the model again")
                dtype = np.dtype("<" + SCALAR_FORMATS[entry.item_type])
                found[entry.key] = np.frombuffer(walker.number_bytes(entry), dtype)
    except (OSError, ValueError, TruncatedHeader, MalformedHeader) as exc:
        raise ModelFileError(f"{path}: cannot be read again: it was changed or removed in the meantime") from exc
    return found
