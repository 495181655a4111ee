"""The index of pulled models: one small JSON file per name, with the paths of the model's files."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from gguf_embed.errors import ModelFileError, WayOut
from gguf_embed.gguf_file.atomic_write import atomic_write
from gguf_embed.model_store.names import model_key, parse_model_name

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PulledModel:
    """One name and its files. Several names may have the same files."""

    name: str
    aliases: tuple[str, ...]
    paths: tuple[Path, ...]  # all parts; the first is the one to load
    size_bytes: int
    digest: str  # sha256 of the content, of the first part if it is split
    repo: str | None
    pulled_unix_s: float

    @property
    def is_here(self) -> bool:
        """Whether all files still exist: other programs use the hub's cache too and may clear it."""
        return all(path.is_file() for path in self.paths)


class PulledIndex:
    """A folder of JSON files. Several processes may use it at once: each file is replaced atomically."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def models(self) -> tuple[PulledModel, ...]:
        """All models, by name. A file that cannot be read is skipped and logged."""
        found = [model for path in sorted(self._folder.glob("*.json")) if (model := _read(path)) is not None]
        return tuple(sorted(found, key=lambda model: model_key(model.name)))

    def write(self, model: PulledModel) -> None:
        """Add or replace a model. Raises `InvalidRequest` for an invalid name, `ModelFileError` if writing fails."""
        path = self._path(model.name)
        content = {
            "name": model.name,
            "aliases": model.aliases,
            "paths": [str(part) for part in model.paths],
            "size_bytes": model.size_bytes,
            "digest": model.digest,
            "repo": model.repo,
            "pulled_unix_s": model.pulled_unix_s,
        }
        with atomic_write(path, ways_out=[WayOut.OTHER_CACHE]) as temporary:
            temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")

    def delete(self, name: str) -> None:
        """Remove a model if it is there. Raises `ModelFileError` if the file cannot be deleted."""
        path = self._path(name)
        try:
            path.unlink(missing_ok=True)
        except OSError as exc:
            raise ModelFileError(
                f"{path} cannot be deleted: {exc.strerror or exc}; check its folder's permissions"
            ) from exc

    def _path(self, name: str) -> Path:
        """Checks the name again, because this is the one place where a name becomes a file name."""
        parse_model_name(name)
        return self._folder / f"{quote(model_key(name), safe='')}.json"


def users_of(path: Path, models: Iterable[PulledModel]) -> list[str]:
    """Names of the models that have this file, through any link."""
    real = path.resolve()
    return [model.name for model in models if any(part.resolve() == real for part in model.paths)]


def _read(path: Path) -> PulledModel | None:
    try:
        raw: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        parse_model_name(raw["name"])
        return PulledModel(
            name=raw["name"],
            aliases=tuple(map(str, raw["aliases"])),
            paths=tuple(map(Path, raw["paths"])),
            size_bytes=int(raw["size_bytes"]),
            digest=str(raw["digest"]),
            repo=raw["repo"],
            pulled_unix_s=float(raw["pulled_unix_s"]),
        )
    except FileNotFoundError:  # removed in the meantime
        return None
    except Exception as exc:
        logger.warning("%s is skipped: it does not describe a model (%s)", path, exc)
        return None
