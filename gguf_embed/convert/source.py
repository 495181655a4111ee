"""What a Hugging Face model directory says about itself: configuration, pooling, card."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguf_embed.errors import ModelFileError
from gguf_embed.types import Pooling

MAX_INTEGER = 2**31 - 1
"""llama.cpp counts in 32 bits."""

MAX_LAYERS = 512
"""llama.cpp ends the process over more (LLAMA_MAX_LAYERS)."""

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
        """A whole number. Raises `ModelFileError` when it is missing (without a default), no number or out of range."""
        value = self._get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or not minimum <= value <= maximum:
            most = "or more" if maximum == MAX_INTEGER else f"to {maximum}"
            raise ModelFileError(
                f"{self.path / 'config.json'}: {key} is {value!r}, expected a whole number of {minimum} {most}"
            )
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A number above 0 that float32 holds. Raises `ModelFileError` as `integer`."""
        value = self._get(key, default)
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < _MAX_FLOAT32:
            raise ModelFileError(f"{self.path / 'config.json'}: {key} is {value!r}, expected a number above 0")
        return float(value)

    def _get(self, key: str, default: object) -> object:
        """A key that is null counts as missing."""
        value = self.config.get(key)
        return default if value is None else value

    def refuse_unless(self, key: str, allowed: tuple[object, ...]) -> None:
        """Raise `ModelFileError` when the config says something else. A key that is missing, or null, passes."""
        value = self.config.get(key)
        if value is not None and value not in allowed:
            only = ", ".join(map(str, allowed))
            raise ModelFileError(f"{self.path / 'config.json'}: {key} {value!r} cannot be converted (only {only})")


def open_source(path: Path) -> ModelSourceDirectory:
    """Read `config.json`. Raises `ModelFileError` when the directory or the file is missing or malformed."""
    if not path.is_dir():
        raise ModelFileError(f"{path}: is not a directory with a model's config.json and safetensors weights")
    return ModelSourceDirectory(path, read_json(path / "config.json"))


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises `ModelFileError` when it is missing or holds anything else."""
    value = _parse_json_file(path)
    if not isinstance(value, dict):
        raise ModelFileError(f"{path}: is not a JSON object")
    return value


@dataclass(frozen=True, slots=True)
class SourceModule:
    """One step of a sentence-transformers model: "Transformer", "Pooling", "Dense", "Normalize"…"""

    kind: str  # the class's own name
    folder: Path


def read_modules(source: ModelSourceDirectory) -> tuple[SourceModule, ...]:
    """The steps that `modules.json` names, in order; none where there is no such file."""
    path = source.path / "modules.json"
    if not path.is_file():
        return ()
    modules = _parse_json_file(path)
    entries = [m for m in modules if isinstance(m, dict)] if isinstance(modules, list) else []
    return tuple(
        SourceModule(str(m.get("type", "")).rpartition(".")[2], source.path / str(m.get("path", ""))) for m in entries
    )


def read_pooling(source: ModelSourceDirectory) -> Pooling | None:
    """The pooling that sentence-transformers' own files declare; None when there are none.

    Raises `ModelFileError` for a pooling that llama.cpp cannot do (max, weighted mean…).
    """
    folders = [module.folder for module in read_modules(source) if module.kind == "Pooling"]
    if not folders:
        return None
    config = read_json(folders[0] / "config.json")
    chosen = [pooling for flag, pooling in _POOLING_FLAGS if config.get(flag)]
    named = _POOLING_NAMES.get(str(config.get("pooling_mode")))
    others = [key for key, value in config.items() if key.startswith("pooling_mode_") and value is True]
    if len(others) > 1 or (not chosen and named is None):
        declared = ", ".join(others) or repr(config.get("pooling_mode"))
        raise ModelFileError(
            f"{source.path}: pooling {declared} cannot be converted (only one of mean, cls, lasttoken)"
        )
    return chosen[0] if chosen else named


def read_license(source: ModelSourceDirectory) -> str | None:
    """The license id in the model card's front matter, e.g. "apache-2.0"; None when it has none."""
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
        raise ModelFileError(f"{path}: cannot be read: {exc.strerror or exc}") from exc
    except ValueError as exc:
        raise ModelFileError(f"{path}: is not JSON: {exc}") from exc
