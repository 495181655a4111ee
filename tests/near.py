"""What two answers of one server may differ by."""

from __future__ import annotations

import numpy as np

from gguf_embed.vectors import quantize


def assert_near(found: object, vectors: np.ndarray, dtype: str) -> None:
    """One level or one bit may differ where a batch's last digits decide."""
    expected = quantize(vectors, dtype)
    given = np.array(found, expected.dtype)
    assert given.tolist() == found
    if dtype in ("binary", "ubinary"):
        differing = np.unpackbits(given.view(np.uint8) ^ expected.view(np.uint8)).sum()
        assert differing <= 2
    else:
        assert np.abs(given.astype(int) - expected.astype(int)).max() <= 1
