"""Makes quantized.json: what sentence-transformers' `quantize_embeddings` says of rows that the tests then quantize.

Needs sentence-transformers, which the project does not: python tests/data/make_quantize_reference.py
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from sentence_transformers.util import quantize_embeddings

N_DIMS = 21  # not a multiple of 8
PRECISIONS = ("int8", "uint8", "binary", "ubinary")


def main() -> None:
    """Rows of length 1 with zeros and a whole 1 among them; the ranges are those of the fixed scale, 127 levels."""
    rows = np.random.default_rng(7).standard_normal((8, N_DIMS)).astype(np.float32)
    rows[1, ::3] = 0.0
    rows[2:4] = 0.0
    rows[2, 4], rows[3, 5] = 1.0, -1.0
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    ranges = np.array([[-128.5 / 127] * N_DIMS, [126.5 / 127] * N_DIMS], np.float32)
    found = {name: quantize_embeddings(rows, name, ranges=ranges).tolist() for name in PRECISIONS}
    Path(__file__).with_name("quantized.json").write_text(json.dumps({"rows": rows.tolist(), **found}) + "\n")


if __name__ == "__main__":
    main()
