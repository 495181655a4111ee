"""A token's text as JSON."""

from __future__ import annotations


def format_piece(piece: bytes) -> str | list[int]:
    """A token's text, or its bytes if they are only a part of a character."""
    try:
        return piece.decode("utf-8")
    except UnicodeDecodeError:
        return list(piece)
