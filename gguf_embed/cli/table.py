"""Plain-text tables for the terminal."""

from __future__ import annotations

from collections.abc import Sequence


def lines_of(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The header and the rows, with each column as wide as its widest cell; the last column is not padded."""
    table = [header, *rows]
    widths = [max(len(row[column]) for row in table) for column in range(len(header))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]


def facts(pairs: Sequence[tuple[str, str]]) -> list[str]:
    """One line per fact, with aligned names. Facts without a value are omitted."""
    width = max((len(name) for name, value in pairs if value), default=0)
    return [f"{name.ljust(width)}  {value}" for name, value in pairs if value]
