"""Writes safetensors, without the package."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path

from gguf_embed.types import FloatMatrix


def write_safetensors(path: Path, tensors: Mapping[str, FloatMatrix]) -> None:
    """float32 tensors, one after the other."""
    header, offset = {}, 0
    for name, values in tensors.items():
        end = offset + values.nbytes
        header[name] = {"dtype": "F32", "shape": values.shape, "data_offsets": (offset, end)}
        offset = end
    encoded = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        for values in tensors.values():
            file.write(values.astype("<f4", copy=False).tobytes())
