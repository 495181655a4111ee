from __future__ import annotations

from random import Random

import numpy as np
import pytest

from gguf_embed.engines.llama.chunks import cut_parts, pool_rows
from gguf_embed.types import Pooling


@pytest.mark.parametrize("seed", range(10))
def test_parts_hold_each_position_once_in_order(seed):
    random = Random(seed)
    lengths = [random.randint(1, 9) for _ in range(random.randint(1, 6))]
    size = random.randint(1, 12)
    parts = list(cut_parts(lengths, size))
    read = [(text, position) for part in parts for text, own in enumerate(part) for position in own]
    assert read == [(text, position) for text, length in enumerate(lengths) for position in range(length)]
    sizes = [sum(map(len, part)) for part in parts]
    assert sizes[:-1] == [size] * (len(parts) - 1)
    assert 1 <= sizes[-1] <= size


def test_rows_are_pooled_text_by_text():
    rows = np.array([[1, 0], [3, 2], [5, 5]], np.float32)
    for pooling, expected in (
        (Pooling.NONE, rows),
        (Pooling.MEAN, [[2, 1], [5, 5]]),
        (Pooling.CLS, [[1, 0], [5, 5]]),
    ):
        found = pool_rows(rows, [2, 1], pooling)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, expected)
