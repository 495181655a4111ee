"""Tables: what leaves, what is cut, and what stays complete."""

from __future__ import annotations

import pytest

from gguf_embed.cli.table import Column, fact_lines, table_lines
from gguf_embed.cli.terminal import n_columns_of

COLUMNS = (Column("NAME", shrinks_to=6), Column("SIZE", right=True), Column("FROM", leaves=2), Column("KIND", leaves=1))
ROWS = [("a-long-name", "1 MB", "org/repository", "rerank"), ("b", "10 MB", "org/b", "static")]


def test_without_a_terminal_nothing_is_dropped_or_cut():
    assert table_lines(COLUMNS, ROWS, None) == [
        "NAME          SIZE  FROM            KIND",
        "a-long-name   1 MB  org/repository  rerank",
        "b            10 MB  org/b           static",
    ]


def test_names_are_cut_a_little_and_then_columns_leave_in_the_order_of_their_importance():
    assert table_lines(COLUMNS, ROWS, 40)[1] == "a-long-n…   1 MB  org/repository  rerank"
    assert table_lines(COLUMNS, ROWS, 30)[1] == "a-long-name   1 MB  rerank"
    assert table_lines(COLUMNS, ROWS, 22)[1] == "a-long…   1 MB  rerank"
    assert table_lines(COLUMNS, ROWS, 20)[:2] == ["NAME          SIZE", "a-long-name   1 MB"]
    assert table_lines(COLUMNS, ROWS, 16)[:2] == ["NAME        SIZE", "a-long-n…   1 MB"]


def test_a_name_that_must_stay_whole_has_a_line_of_its_own():
    columns = (Column("NAME", shrinks_to=6, folds=True), *COLUMNS[1:])
    assert table_lines(columns, ROWS, 16)[:4] == [
        "NAME        SIZE",
        "a-long-name",
        "            1 MB",
        "b          10 MB",
    ]


@pytest.mark.parametrize("width", range(14, 60))
def test_no_line_is_longer_than_the_terminal(width):
    assert max(map(n_columns_of, table_lines(COLUMNS, ROWS, width))) <= width


def test_wide_characters_keep_the_columns_straight():
    lines = table_lines((Column("NAME"), Column("KIND")), [("模型", "x"), ("m", "y")], 40)
    assert lines == ["NAME  KIND", "模型  x", "m     y"]


def test_facts_without_a_value_are_left_out_and_long_ones_continue_below_themselves():
    pairs = [("name", "m"), ("file", ""), ("note", "one two three four five six seven")]
    assert fact_lines(pairs, None) == ["name  m", "note  one two three four five six seven"]
    assert fact_lines(pairs, 26) == ["name  m", "note  one two three four", "      five six seven"]
