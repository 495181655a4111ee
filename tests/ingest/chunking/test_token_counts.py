"""Tokens of parts of a text."""

from __future__ import annotations

import pytest

from gguf_embed.ingest.chunking.token_counts import counts_of_spans, estimated_counts


def test_a_token_across_a_border_belongs_to_both_sides():
    counts = counts_of_spans([(0, 7, [(0, 3), (3, 4), (5, 7)]), (7, 10, [(0, 1), (1, 3)])])
    assert [counts.between(0, 10), counts.between(0, 1), counts.between(1, 5), counts.between(8, 10)] == [5, 1, 2, 1]
    assert (len(counts), counts.is_exact) == (5, True)


def test_tokens_that_share_a_character_are_all_counted():
    counts = counts_of_spans([(0, 3, [(0, 1), (1, 2), (1, 2), (1, 2), (2, 3)])])
    assert [counts.between(1, 2), counts.between(0, 2), counts.between(2, 3)] == [3, 4, 1]


@pytest.mark.parametrize(
    ("spans", "expected"),
    [
        ([None, None, None, None], [2, 2, 4]),
        ([(0, 4), None, None, (8, 10)], [2, 3, 4]),
        ([(0, 5), None, (5, 10)], [2, 1, 3]),
        ([None, (0, 10)], [2, 1, 2]),
    ],
)
def test_tokens_of_unknown_position_are_spread_evenly(spans, expected):
    counts = counts_of_spans([(0, 10, spans)])
    assert [counts.between(0, 5), counts.between(5, 10), counts.between(0, 10)] == expected
    assert not counts.is_exact


@pytest.mark.parametrize(
    ("text", "n_tokens"), [("", 0), ("a", 1), ("a" * 4, 1), ("a" * 9, 3), ("資料庫", 3), ("😀" * 5, 5)]
)
def test_without_a_tokenizer_four_bytes_are_a_token(text, n_tokens):
    counts = estimated_counts(text)
    assert counts.between(0, len(text)) == n_tokens
    assert not counts.is_exact
