"""What was measured about a model file on this machine, kept in the cache so that it is measured once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from gguf_embed.engines.cpu_info import cpu_fields
from gguf_embed.engines.select import engine_packages
from gguf_embed.errors import ModelFileError
from gguf_embed.gguf_file.atomic_write import atomic_write

_PACKAGES = ("gguf-embed", *engine_packages())
_CPU_FIELDS = ("model name", "flags", "Features", "CPU part")


class MeasurementRecords:
    """Small JSON files. A record that cannot be read or written is measured again, without a word."""

    def __init__(self, cache_dir: Path) -> None:
        self._folder = cache_dir / "measured"

    def read(self, key: str) -> Mapping[str, Any] | None:
        try:
            record = json.loads((self._folder / f"{key}.json").read_text("utf-8"))
        except (OSError, ValueError, RecursionError):
            return None
        return record if isinstance(record, dict) else None

    def write(self, key: str, record: Mapping[str, Any]) -> None:
        with suppress(ModelFileError), atomic_write(self._folder / f"{key}.json") as temporary:
            temporary.write_text(json.dumps(record, indent=1) + "\n", "utf-8")


def record_key(path: Path, *settings: object) -> str:
    """A key for the file at `path` on this machine with these settings.

    It depends on path, size and modification time, on the CPU, on the versions of this package and the engines, and on
    the source code beside this file: a rule or a graph that changes between two versions leaves no stale choice.
    """
    facts = path.stat()
    return machine_key((str(path.resolve()), facts.st_size, facts.st_mtime_ns), settings)


def machine_key(file: object, settings: object) -> str:
    """A key for what identifies a file, with these settings, this CPU, and these versions of package and engines."""
    return hashlib.sha256(repr((file, _cpu(), _versions(), _own_source(), settings)).encode()).hexdigest()[:32]


@cache
def _cpu() -> str:
    """The first processor's model and features, as the system lists them."""
    fields = cpu_fields()
    return "\n".join(f"{name}: {fields[name]}" for name in _CPU_FIELDS if name in fields)


@cache
def _versions() -> tuple[str, ...]:
    return tuple(_version(package) for package in _PACKAGES)


@cache
def _own_source() -> str:
    return source_digest(Path(__file__).parent)


def source_digest(folder: Path) -> str:
    """Stands for the Python files in a folder and those below it. "" if there are none, as in an archive."""
    digest = hashlib.sha256()
    paths = sorted(folder.rglob("*.py"))
    for path in paths:
        content = path.read_bytes()
        digest.update(f"{path.relative_to(folder).as_posix()} {len(content)} ".encode() + content)
    return digest.hexdigest() if paths else ""


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
