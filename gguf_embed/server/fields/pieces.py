"""A token's text as JSON."""

from __future__ import annotations


def format_piece(piece: bytes) -> str | list[int]:
    """A token's text; the bytes themselves where they are part of a character only."""
    try:
        return piece.decode("utf-8")
    except UnicodeDecodeError:
        return list(piece)
