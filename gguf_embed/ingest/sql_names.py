"""Names of tables and columns in SQL."""

from __future__ import annotations


def quoted(name: str) -> str:
    """As an identifier, in double quotes."""
    return '"' + name.replace('"', '""') + '"'
