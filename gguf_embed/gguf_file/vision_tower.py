"""Checks the header of a vision tower's file (llama.cpp's mmproj) before llama.cpp loads it."""

from __future__ import annotations

from gguf_embed.errors import ModelFileError
from gguf_embed.gguf_file.header import GgufHeader

ARCHITECTURE = "clip"
"""general.architecture of every mmproj file, for any kind of tower."""

_NEEDED = ("embedding_length", "block_count", "image_size", "patch_size", "attention.head_count")


def check_tower(header: GgufHeader) -> None:
    """Raises `ModelFileError` for a file that is not a vision tower, or lacks a number by which llama.cpp divides.

    Only llama.cpp can check whether its projector fits the text model: the relevant tensor depends on the projector.
    """
    name = f"--mmproj {header.path}"
    if header.architecture != ARCHITECTURE:
        raise ModelFileError(
            f"{name} is a {header.architecture} model, not a vision tower: give the model's mmproj file"
        )
    if not header.get("clip.has_vision_encoder", bool):
        raise ModelFileError(f"{name} has no vision encoder, and audio is not supported: give one with vision")
    for key in _NEEDED:
        number = header.get(f"clip.vision.{key}", int)
        if number is None or number < 1:
            raise ModelFileError(f"{name}: clip.vision.{key} is {number}, expected at least 1; convert the model again")
