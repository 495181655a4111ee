"""What stands on a terminal after a program has written to it: enough of one for progress bars."""

from __future__ import annotations

import re

_PART = re.compile(r"\x1b\[([?0-9;]*)([A-Za-z])|(\r)|(\n)|([^\x1b\r\n]+)")


def screen(written: str, columns: int) -> list[str]:
    """The lines, without those at the end that are empty. Long lines continue on the next one, as on a terminal."""
    lines, row, column = [""], 0, 0

    def put(character: str) -> None:
        nonlocal row, column
        if column == columns:
            row, column = row + 1, 0
        lines.extend([""] * (row + 1 - len(lines)))
        lines[row] = lines[row].ljust(column)[:column] + character + lines[row][column + 1 :]
        column += 1

    for part in _PART.finditer(written):
        argument, command, carriage_return, line_feed, text = part.groups()
        if carriage_return:
            column = 0
        elif line_feed:
            row += 1
            lines.extend([""] * (row + 1 - len(lines)))
        elif text:
            for character in text:
                put(character)
        elif command == "A":
            row = max(0, row - int(argument or 1))
        elif command == "K":
            lines[row] = "" if argument == "2" else lines[row][:column]
    while lines and not lines[-1].strip():
        lines.pop()
    return [line.rstrip() for line in lines]
