"""Reads what a Hugging Face model directory declares: configuration, modules, pooling, license."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguf_embed.errors import ModelFileError
from gguf_embed.types import Pooling

MAX_INTEGER = 2**31 - 1
"""llama.cpp uses 32-bit integers."""

MAX_LAYERS = 512
"""llama.cpp ends the process if there are more (LLAMA_MAX_LAYERS)."""

_MAX_FLOAT32 = 3.4e38
_POOLING_FLAGS = (
    ("pooling_mode_mean_tokens", Pooling.MEAN),
    ("pooling_mode_cls_token", Pooling.CLS),
    ("pooling_mode_lasttoken", Pooling.LAST),
)
_POOLING_NAMES = {"mean": Pooling.MEAN, "cls": Pooling.CLS, "lasttoken": Pooling.LAST}


@dataclass(frozen=True, slots=True)
class ModelSourceDirectory:
    """A directory with `config.json`, weights and a tokenizer. `config` is the parsed `config.json`."""

    path: Path
    config: dict[str, Any]

    def text(self, key: str, default: str = "") -> str:
        value = self._get(key, default)
        if not isinstance(value, str):
            raise ModelFileError(f"{self.path / 'config.json'}: {key} is {value!r}, expected a string")
        return value

    def integer(self, key: str, default: int | None = None, *, minimum: int = 1, maximum: int = MAX_INTEGER) -> int:
        """An integer. Raises `ModelFileError` if it is out of range, of another type, or missing without a default."""
        value = self._get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or not minimum <= value <= maximum:
            limits = f"of at least {minimum}" if maximum == MAX_INTEGER else f"from {minimum} to {maximum}"
            raise ModelFileError(f"{self.path / 'config.json'}: {key} is {value!r}, expected an integer {limits}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A number above 0 that fits float32. Raises `ModelFileError` like `integer`."""
        value = self._get(key, default)
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < _MAX_FLOAT32:
            raise ModelFileError(f"{self.path / 'config.json'}: {key} is {value!r}, expected a number above 0")
        return float(value)

    def _get(self, key: str, default: object) -> object:
        """Null counts as missing."""
        value = self.config.get(key)
        return default if value is None else value

    def refuse_unless(self, key: str, allowed: tuple[object, ...]) -> None:
        """Raise `ModelFileError` if the key has any other value. A missing key and null are accepted."""
        value = self.config.get(key)
        if value is not None and value not in allowed:
            only = ", ".join(map(str, allowed))
            raise ModelFileError(f"{self.path / 'config.json'}: {key} {value!r} cannot be converted (only {only})")

    def refuse_others(self, computed: Mapping[str, tuple[object, ...]]) -> None:
        """`refuse_unless` for each of these keys."""
        for key, allowed in computed.items():
            self.refuse_unless(key, allowed)


def open_source(path: Path) -> ModelSourceDirectory:
    """Read `config.json`. Raises `ModelFileError` if the directory or the file is missing or malformed."""
    if not path.is_dir():
        raise ModelFileError(f"{path} is not a directory; name one with a model's config.json and safetensors weights")
    return ModelSourceDirectory(path, read_json(path / "config.json"))


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises `ModelFileError` if it is missing or contains anything else."""
    value = _parse_json_file(path)
    if not isinstance(value, dict):
        raise ModelFileError(f"{path} is not a JSON object")
    return value


@dataclass(frozen=True, slots=True)
class SourceModule:
    """One step of a sentence-transformers model: "Transformer", "Pooling", "Dense", "Normalize"…"""

    kind: str  # the class name without its module
    folder: Path


def read_modules(source: ModelSourceDirectory) -> tuple[SourceModule, ...]:
    """The steps listed in `modules.json`, in order; none if there is no such file."""
    path = source.path / "modules.json"
    if not path.is_file():
        return ()
    modules = _parse_json_file(path)
    entries = [m for m in modules if isinstance(m, dict)] if isinstance(modules, list) else []
    return tuple(
        SourceModule(str(m.get("type", "")).rpartition(".")[2], source.path / str(m.get("path", ""))) for m in entries
    )


def read_pooling(source: ModelSourceDirectory) -> Pooling | None:
    """The pooling that sentence-transformers' files declare; None if there are none.

    Raises `ModelFileError` for a pooling that llama.cpp cannot do (max, weighted mean…).
    """
    folders = [module.folder for module in read_modules(source) if module.kind == "Pooling"]
    if not folders:
        return None
    config = read_json(folders[0] / "config.json")
    flags = [key for key, value in config.items() if key.startswith("pooling_mode_") and value is True]
    chosen = _pooling_of(config)
    if len(flags) > 1 or chosen is None:
        declared = ", ".join(flags) or repr(config.get("pooling_mode"))
        raise ModelFileError(
            f"{source.path}: pooling {declared} cannot be converted (only one of mean, cls, lasttoken)"
        )
    return chosen


def _pooling_of(config: dict[str, Any]) -> Pooling | None:
    """From the flags of older versions, or the single name of newer ones."""
    for flag, pooling in _POOLING_FLAGS:
        if config.get(flag):
            return pooling
    return _POOLING_NAMES.get(str(config.get("pooling_mode")))


def read_license(source: ModelSourceDirectory) -> str | None:
    """The license id in the model card's front matter, e.g. "apache-2.0"; None if there is none."""
    card = source.path / "README.md"
    if not card.is_file():
        return None
    front_matter = re.match(r"---\s*\n(.*?)\n---", card.read_text(encoding="utf-8", errors="replace"), re.DOTALL)
    found = re.search(r"^license:[ \t]*['\"]?([\w.+-]+)", front_matter[1], re.MULTILINE) if front_matter else None
    return found[1] if found else None


def _parse_json_file(path: Path) -> object:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise ModelFileError(f"{path} cannot be read: {exc.strerror or exc}") from exc
    except ValueError as exc:
        raise ModelFileError(f"{path} is not JSON: {exc}") from exc
