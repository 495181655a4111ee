"""The text model in whose space the tiny nomic-embed-vision is."""

from __future__ import annotations

from pathlib import Path

from gguf_embed.convert.convert import convert_directory
from tests.convert.encoders import tiny_models


def write_nomic_text(folder: Path) -> Path:
    """As wide as the images' vectors, with a vocabulary of its own."""
    path = folder / "nomic_text.gguf"
    source = tiny_models.write_directory("nomic_bert", folder / "nomic_text-source")
    convert_directory(source, path, "f32", report=lambda line: None)
    return path
