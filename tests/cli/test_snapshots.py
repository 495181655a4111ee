"""What people see on a terminal is what tests/cli/snapshots has; docs/contributing.md says how to renew it."""

from __future__ import annotations

import pytest

from gguf_embed.cli.terminal import n_columns_of
from tests.cli.snapshots import COLUMNS, FOLDER, SHOWN, shown

WHOLE_LINES = ("help", "serve-help", "mistakes")
"""Where a line may be longer than the terminal: commands to copy, and errors."""


@pytest.mark.parametrize("columns", COLUMNS)
@pytest.mark.parametrize("name", SHOWN)
def test_what_is_shown_is_the_snapshot(name, columns, tmp_path):
    assert shown(name, columns, tmp_path) == (FOLDER / f"{name}-{columns}.txt").read_text("utf-8")


@pytest.mark.parametrize("columns", COLUMNS)
@pytest.mark.parametrize("name", [name for name in SHOWN if name not in WHOLE_LINES])
def test_no_line_is_longer_than_the_terminal(name, columns):
    lines = (FOLDER / f"{name}-{columns}.txt").read_text("utf-8").splitlines()
    assert [line for line in lines if n_columns_of(line) > columns] == []


def test_every_snapshot_is_of_something():
    assert {path.name for path in FOLDER.iterdir()} == {
        f"{name}-{columns}.txt" for name in SHOWN for columns in COLUMNS
    }
