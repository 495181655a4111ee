"""Places for files on machines that may have no home directory, or nothing that can be written."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from gguf_embed.errors import ConfigError

NO_HOME = Path(os.devnull) / "no-home-directory"
"""Below a file that is not a folder, so that nothing can be found or made there, by no user."""


def home() -> Path:
    """The home directory; `NO_HOME` if there is none, as for a user without an entry in /etc/passwd."""
    try:
        return Path.home()
    except RuntimeError:
        return NO_HOME


def expanded(path: Path) -> Path:
    """The path with a leading "~" replaced. Raises `ConfigError` if that home directory is unknown."""
    try:
        return path.expanduser()
    except RuntimeError as exc:
        raise ConfigError(
            f"{path}: there is no home directory for {path.parts[0]}: write the whole path, or set HOME"
        ) from exc


def temporary_folder() -> Path:
    """The system's folder for temporary files, also where nothing can be written into it."""
    try:
        return Path(tempfile.gettempdir())
    except FileNotFoundError:
        return Path("/tmp")


def memory_file(name: str) -> Path | None:
    """A new, empty file that is in memory only, until this process ends. None where the system has no such files.

    Its path names this process, so that children of the same user can read it, too.
    """
    if not hasattr(os, "memfd_create"):
        return None
    try:
        handle = os.memfd_create(name)
    except OSError:
        return None
    return Path(f"/proc/{os.getpid()}/fd/{handle}")
