"""Width and colors of the terminal."""

from __future__ import annotations

import pytest

from gguf_embed.cli.terminal import duration_text, has_color, red, shortened, width_of
from tests.cli.one_shot import Stream

TERMINAL, PIPE = Stream(is_terminal=True), Stream()


def test_only_a_terminal_has_a_width(monkeypatch):
    monkeypatch.setenv("COLUMNS", "90")
    assert (width_of(TERMINAL), width_of(PIPE)) == (90, None)
    monkeypatch.setenv("COLUMNS", "7")
    assert width_of(TERMINAL) == 40


@pytest.mark.parametrize(
    ("environment", "has"),
    [({}, True), ({"NO_COLOR": "1"}, False), ({"NO_COLOR": ""}, True), ({"TERM": "dumb"}, False)],
)
def test_colors_are_for_terminals_whose_user_wants_them(monkeypatch, environment, has):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert (has_color(TERMINAL), has_color(PIPE)) == (has, False)
    assert (red("x", TERMINAL) != "x") is has
    assert red("x", PIPE) == "x"


def test_a_text_is_cut_to_columns_not_to_characters():
    assert shortened("模型模型", 5) == "模型…"
    assert shortened("two\nlines", 20) == "two lines"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (89, "89 s"), (90, "2 min"), (5399, "90 min"), (7200, "2 h")]
)
def test_durations_read_well(seconds, text):
    assert duration_text(seconds) == text
