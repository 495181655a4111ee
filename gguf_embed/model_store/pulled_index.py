"""The index of pulled models: one small JSON file per name, which says where the model's files are."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from gguf_embed.errors import ModelFileError
from gguf_embed.gguf_file.atomic_write import atomic_write
from gguf_embed.model_store.names import model_key, parse_model_name

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PulledModel:
    """One name and the files it means. Several names may mean the same files."""

    name: str
    aliases: tuple[str, ...]
    paths: tuple[Path, ...]  # all parts, the one to load first
    size_bytes: int
    digest: str  # sha256 of the content, of the first part's when it is split
    repo: str | None
    pulled_unix_s: float

    @property
    def is_here(self) -> bool:
        """Whether all files are still there: other programs share the hub's cache and may clean it."""
        return all(path.is_file() for path in self.paths)


class PulledIndex:
    """A folder of JSON files. Several processes may use it at once: each file is replaced whole."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def models(self) -> tuple[PulledModel, ...]:
        """All of them, by name. A file that cannot be read is passed over and logged."""
        found = [model for path in sorted(self._folder.glob("*.json")) if (model := _read(path)) is not None]
        return tuple(sorted(found, key=lambda model: model_key(model.name)))

    def write(self, model: PulledModel) -> None:
        """Raises `InvalidRequest` for a name that is none, `ModelFileError` when the folder cannot be written."""
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
        with atomic_write(path, way_out="set GGUF_EMBED_CACHE to a folder that you can write to") as temporary:
            temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")

    def delete(self, name: str) -> None:
        """Raises `ModelFileError` when the folder cannot be written."""
        path = self._path(name)
        try:
            path.unlink(missing_ok=True)
        except OSError as exc:
            raise ModelFileError(f"{path}: cannot be deleted: {exc.strerror or exc}; check the folder") from exc

    def _path(self, name: str) -> Path:
        """Checked here as well as at the door: a name becomes a file's name in this one place."""
        parse_model_name(name)
        return self._folder / f"{quote(model_key(name), safe='')}.json"


def users_of(path: Path, models: Iterable[PulledModel]) -> list[str]:
    """Names of the models that mean this file, by whatever link."""
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
    except FileNotFoundError:  # removed just now
        return None
    except Exception as exc:
        logger.warning("%s is passed over: it does not describe a model (%s)", path, exc)
        return None
