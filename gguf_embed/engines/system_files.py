"""Reads what Linux says about the machine, in files that other systems do not have."""

from __future__ import annotations

from pathlib import Path


def read_system_file(path: Path) -> str:
    """The content of a small file, "" if it cannot be read."""
    try:
        return path.read_text()
    except OSError:
        return ""
