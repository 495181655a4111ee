from __future__ import annotations

import itertools
from random import Random

import numpy as np
import pytest

from gguf_embed.preprocessing.windows import mean_over, plan_windows, span_rows, weighted_mean


@pytest.mark.parametrize(
    ("n_tokens", "around", "limit", "windows"),
    [
        (6, (1, 1), 4, [[0, 1, 2, 5], [0, 3, 4, 5]]),
        (7, (1, 1), 4, [[0, 1, 2, 6], [0, 3, 4, 6], [0, 5, 6]]),
        (5, (0, 0), 2, [[0, 1], [2, 3], [4]]),
        (4, (2, 0), 3, [[0, 1, 2], [0, 1, 3]]),
        (3, (0, 1), 2, [[0, 2], [1, 2]]),
    ],
)
def test_windows_are_full_and_framed(n_tokens, around, limit, windows):
    assert [list(window.positions) for window in plan_windows(n_tokens, *around, limit)] == windows


@pytest.mark.parametrize("seed", range(20))
def test_windows_hold_each_token_of_a_text_once(seed):
    random = Random(seed)
    for _ in range(50):
        n_opening, n_closing = random.randint(0, 3), random.randint(0, 3)
        limit = n_opening + n_closing + random.randint(1, 9)
        n_tokens = n_opening + n_closing + random.randint(1, 60)
        windows = plan_windows(n_tokens, n_opening, n_closing, limit)
        own = [list(window.positions)[n_opening : len(window.positions) - n_closing] for window in windows]
        assert [token for part in own for token in part] == list(range(n_opening, n_tokens - n_closing))
        assert [len(part) for part in own] == [window.n_own for window in windows]
        assert all(len(window.positions) <= limit for window in windows)


def test_a_window_with_more_tokens_weighs_more():
    rows = np.array([[1.0, 0.0], [0.0, 1.0]], np.float32)
    np.testing.assert_allclose(weighted_mean(rows, [3, 1]), [[0.75, 0.25]])


TOKENS = [None, (0, 3), (4, 7), (7, 8), None]  # [CLS] the cat . [SEP]


@pytest.mark.parametrize(
    ("offsets", "span", "rows"),
    [
        (TOKENS, (0, 8), range(5)),
        (TOKENS, (0, 3), range(2)),
        (TOKENS, (1, 3), range(1, 2)),
        (TOKENS, (4, 7), range(2, 3)),
        (TOKENS, (4, 8), range(2, 5)),
        (TOKENS, (2, 5), range(1, 3)),
        (TOKENS, (3, 4), None),
        ([None, (0, 2), None, (4, 6), None], (0, 6), range(5)),  # a token whose place is not known
        ([None, (0, 2), None, (4, 6), None], (1, 5), range(1, 4)),
        ([None, (0, 2), None, (4, 6), None], (4, 6), range(3, 5)),
        ([(0, 1), (0, 1), (1, 2)], (0, 1), range(2)),  # two tokens of one character
        ([None, None], (0, 3), None),
        ([], (0, 1), None),
    ],
)
def test_the_rows_of_a_span(offsets, span, rows):
    n_characters = max((found[1] for found in offsets if found), default=3)
    assert span_rows(offsets, [span], n_characters) == [rows]


@pytest.mark.parametrize("seed", range(20))
def test_a_span_has_the_tokens_that_overlap_it(seed):
    random = Random(seed)
    for _ in range(30):
        borders = sorted(random.sample(range(61), random.randint(2, 30)))
        offsets = [(a, b) for a, b in itertools.pairwise(borders) if random.random() < 0.8]
        spans = [tuple(sorted(random.sample(range(61), 2))) for _ in range(5)]
        found = span_rows([None, *offsets, None], spans, 60)
        for (start, end), rows in zip(spans, found, strict=True):
            overlapping = [index for index, (a, b) in enumerate(offsets, 1) if a < end and b > start]
            if overlapping:
                overlapping = [0] * (start == 0) + overlapping + [len(offsets) + 1] * (end == 60)
            assert ([] if rows is None else list(rows)) == overlapping


@pytest.mark.parametrize("seed", range(10))
def test_means_are_those_of_each_range_alone(seed):
    generator, random = np.random.default_rng(seed), Random(seed)
    rows = generator.standard_normal((random.randint(1, 200), 16)).astype(np.float32) * 100
    ends = [sorted(random.sample(range(len(rows) + 1), 2)) for _ in range(30)]
    ranges = [range(*pair) for pair in ends] + [range(len(rows))]
    expected = [rows[r.start : r.stop].mean(axis=0, dtype=np.float64) for r in ranges]
    found = mean_over(rows, ranges)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-5)
