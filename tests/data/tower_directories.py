"""The tiny models of `towers/` as directories of a hub repository: random weights, a small vocabulary."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from tests.data.tiny_weights import make_weights, write_safetensors

DATA = Path(__file__).parent / "towers"
FILES = ("config.json", "preprocessor_config.json", "vocab.json", "merges.txt", "spiece.model")


def write_directory(name: str, path: Path) -> Path:
    """`name` is a folder of `towers/`. The weights are made of the shapes, as the reference was."""
    path.mkdir()
    for file in FILES:
        if (DATA / name / file).is_file():
            shutil.copy(DATA / name / file, path)
    stored = json.loads((DATA / name / "weights.json").read_text("utf-8"))
    write_safetensors(path / "model.safetensors", make_weights(stored["shapes"], stored["scale"]))
    return path
