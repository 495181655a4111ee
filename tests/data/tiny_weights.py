"""Random weights that are the same everywhere, so that a tiny model is stored as the shapes of its tensors."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Weights = dict[str, NDArray[np.float32]]


def make_weights(shapes: Mapping[str, Sequence[int]], scale: float) -> Weights:
    """float32 tensors under their names: norms around 1, biases small, matrices evenly spread up to `scale`.

    Made of PCG64's raw output, which numpy promises never to change (NEP 19).
    """
    bits = np.random.PCG64(0)
    weights: Weights = {}
    for name, shape in sorted(shapes.items()):
        raw = np.asarray(bits.random_raw(prod(shape)), np.uint64) >> np.uint64(41)
        uniform = (raw.astype(np.float32) / np.float32(2**22) - 1).reshape(shape)
        is_norm = len(shape) == 1 and name.endswith("weight")
        spread = np.float32(0.2 if len(shape) == 1 else scale)
        weights[name] = (np.float32(is_norm) + spread * uniform).astype(np.float32)
    return weights


def write_safetensors(path: Path, weights: Weights) -> None:
    """A JSON header, then the tensors in the order of their names."""
    header, offset = {}, 0
    for name, values in sorted(weights.items()):
        header[name] = {"dtype": "F32", "shape": values.shape, "data_offsets": (offset, offset + values.nbytes)}
        offset += values.nbytes
    encoded = json.dumps(header).encode()
    data = b"".join(values.tobytes() for _, values in sorted(weights.items()))
    path.write_bytes(struct.pack("<Q", len(encoded)) + encoded + data)
