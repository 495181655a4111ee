"""What the terminal can show: its width, whether it has colors, and how many of its columns a text takes."""

from __future__ import annotations

import os
import shutil
import unicodedata
from itertools import accumulate
from typing import TextIO

import click

NO_TERMINAL_COLUMNS = 100
"""The width of text that is written for people, where it does not go to a terminal."""

_MIN_COLUMNS = 40


def width_of(stream: TextIO | None) -> int | None:
    """The terminal's columns; None if the stream is closed or not a terminal, where nothing is cut."""
    if stream is None or not stream.isatty():
        return None
    return max(_MIN_COLUMNS, shutil.get_terminal_size((80, 24)).columns)


def has_color(stream: TextIO | None) -> bool:
    """Only on a terminal, and not with NO_COLOR (https://no-color.org)."""
    if stream is None or not stream.isatty():
        return False
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def bold(text: str, stream: TextIO | None) -> str:
    return click.style(text, bold=True) if has_color(stream) else text


def dim(text: str, stream: TextIO | None) -> str:
    return click.style(text, dim=True) if has_color(stream) else text


def red(text: str, stream: TextIO | None) -> str:
    return click.style(text, fg="red", bold=True) if has_color(stream) else text


def yellow(text: str, stream: TextIO | None) -> str:
    return click.style(text, fg="yellow", bold=True) if has_color(stream) else text


def shortened(text: str, n_columns: int) -> str:
    """The text on one line of a terminal, cut to so many columns."""
    line = "".join(character for character in " ".join(text[: 4 * n_columns].split()) if character.isprintable())
    if n_columns_of(line) <= n_columns:
        return line
    ends = accumulate(map(_columns, line))
    return "".join(character for character, end in zip(line, ends, strict=True) if end < n_columns).rstrip() + "…"


def n_columns_of(text: str) -> int:
    """On a terminal: wide characters take two columns, combining marks none."""
    return sum(map(_columns, text))


def padded(text: str, n_columns: int, *, right: bool = False) -> str:
    """The text with spaces after it, or before it, to so many columns."""
    space = " " * (n_columns - n_columns_of(text))
    return space + text if right else text + space


def _columns(character: str) -> int:
    if character.isascii():
        return 1
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def duration_text(seconds: float) -> str:
    """ "45 s", "3 min", "2 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.0f} h"
