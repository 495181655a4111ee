"""Tables for the terminal: as wide as it is, or complete where the output is not a terminal."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import click

from gguf_embed.cli.terminal import bold, n_columns_of, padded, shortened

_GAP = "  "
_MIN_VALUE_COLUMNS = 20


@dataclass(frozen=True, slots=True)
class Column:
    """A column, and what happens to it where there is little room."""

    title: str
    leaves: int = 0  # the column with the largest number is dropped first; 0: it stays
    shrinks_to: int | None = None  # columns; None: its cells are never cut
    right: bool = False  # numbers stand at the right
    folds: bool = False  # the first column: a cell that does not fit has a line of its own, before the others


def table_lines(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int | None) -> list[str]:
    """The header and a line per row. `width`: columns of the terminal; None: nothing is dropped or cut."""
    natural = [max(map(n_columns_of, (column.title, *(row[at] for row in rows)))) for at, column in enumerate(columns)]
    kept = list(range(len(columns))) if width is None else _kept(columns, natural, width)
    widths = {at: natural[at] for at in kept}
    if width is not None:
        _shrink(columns, widths, width)
    header = tuple(column.title for column in columns)
    return [line for row in (header, *rows) for line in _row_lines(columns, row, widths)]


def _kept(columns: Sequence[Column], natural: Sequence[int], width: int) -> list[int]:
    """The columns that fit, if those that may be cut are cut as far as possible."""
    kept = list(range(len(columns)))
    while _total([_least(columns[at], natural[at]) for at in kept]) > width:
        first_to_leave = max(kept, key=lambda at: columns[at].leaves)
        if not columns[first_to_leave].leaves:
            break
        kept.remove(first_to_leave)
    return kept


def _least(column: Column, natural: int) -> int:
    return natural if column.shrinks_to is None else min(natural, max(column.shrinks_to, len(column.title)))


def _shrink(columns: Sequence[Column], widths: dict[int, int], width: int) -> None:
    """Takes what is missing from the widest columns that may be cut."""
    while _total(list(widths.values())) > width:
        able = [at for at in widths if widths[at] > _least(columns[at], widths[at])]
        if not able:
            return
        widths[max(able, key=lambda at: widths[at])] -= 1


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + len(_GAP) * (len(widths) - 1)


def _row_lines(columns: Sequence[Column], row: Sequence[str], widths: dict[int, int]) -> list[str]:
    if columns[0].folds and n_columns_of(row[0]) > widths[0]:
        return [row[0], _line(columns, ("", *row[1:]), widths)]
    return [_line(columns, row, widths)]


def _line(columns: Sequence[Column], row: Sequence[str], widths: dict[int, int]) -> str:
    cells = (padded(_cut(row[at], width), width, right=columns[at].right) for at, width in widths.items())
    return _GAP.join(cells).rstrip()


def _cut(cell: str, width: int) -> str:
    return cell if n_columns_of(cell) <= width else shortened(cell, width)


def print_table(lines: Sequence[str]) -> None:
    """On standard output; the header is bold on a terminal."""
    header, *rows = lines
    click.echo("\n".join([bold(header, sys.stdout), *rows]))


def fact_lines(pairs: Sequence[tuple[str, str]], width: int | None) -> list[str]:
    """A name and its value per fact, with aligned values, which continue below themselves on a terminal.

    Facts without a value are omitted.
    """
    indent = max((len(name) for name, value in pairs if value), default=0) + len(_GAP)
    return [line for name, value in pairs if value for line in _fact(name.ljust(indent), value, width)]


def _fact(name: str, value: str, width: int | None) -> list[str]:
    if width is None:
        return [name + value]
    room = max(_MIN_VALUE_COLUMNS, width - len(name))
    lines = textwrap.wrap(value, room, break_long_words=False, break_on_hyphens=False)
    return [(name if at == 0 else " " * len(name)) + line for at, line in enumerate(lines)]
