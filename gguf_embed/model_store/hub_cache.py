"""Delete the model files that we may delete: those in the hub's cache, with all links to them, and converted ones."""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path

from gguf_embed.errors import ModelFileError


def delete_cached(path: Path, cache_dir: Path) -> int:
    """Delete a file that the hub's client downloaded or that we made in `cache_dir`; returns the freed bytes.

    Any other file belongs to the user: it stays, and 0 is returned. Raises `ModelFileError` if deleting fails.
    """
    snapshot = _snapshot_of(path)
    try:
        if snapshot is not None:
            return _delete_from_hub_cache(path, snapshot.parent.parent)
        if path.resolve().is_relative_to(cache_dir.resolve()):
            return _delete(path)
    except OSError as exc:
        raise ModelFileError(
            f"{path} cannot be deleted: {exc.strerror or exc}; check its folder's permissions"
        ) from exc
    return 0


def _snapshot_of(path: Path) -> Path | None:
    """The folder ".../models--org--repo/snapshots/REVISION" that contains `path`; None outside a hub cache."""
    for folder in path.parents:
        if folder.parent.name == "snapshots" and folder.parent.parent.name.startswith("models--"):
            return folder
    return None


def _delete_from_hub_cache(path: Path, repo_folder: Path) -> int:
    """Delete the content, every revision's link to it, and folders left empty."""
    content = path.resolve()
    links = [found for found in (repo_folder / "snapshots").rglob(path.name) if found.resolve() == content]
    freed = 0
    if content.is_relative_to(repo_folder.resolve()):
        freed = _delete(content)
    for link in links:
        link.unlink(missing_ok=True)
        _delete_empty_folders(link.parent, repo_folder)
    if not any(file.is_file() for name in ("blobs", "snapshots") for file in (repo_folder / name).rglob("*")):
        shutil.rmtree(repo_folder, ignore_errors=True)  # only the client's own metadata is left
    return freed


def _delete_empty_folders(folder: Path, last: Path) -> None:
    with suppress(OSError):  # not empty
        while folder != last:
            folder.rmdir()
            folder = folder.parent


def _delete(path: Path) -> int:
    try:
        size_bytes = path.stat().st_size
        path.unlink()
    except FileNotFoundError:
        return 0
    return size_bytes
