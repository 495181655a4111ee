"""Whether a client's vectors are the server's own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from tests.server_process import Server


def assert_own(vectors: ArrayLike, server: Server, texts: Sequence[str]) -> None:
    """Every vector has length 1 and a cosine of 0.99999 or more to what the server says of its text."""
    assert_close(vectors, server.embed(texts))


def assert_close(vectors: ArrayLike, expected: ArrayLike) -> None:
    found, wanted = np.asarray(vectors, np.float64), np.asarray(expected, np.float64)
    assert found.shape == wanted.shape
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-4)
    np.testing.assert_array_less(0.99999, (found * wanted).sum(axis=1))
