"""What the header of a vision tower's file (llama.cpp's mmproj) must say before llama.cpp is given it."""

from __future__ import annotations

from gguf_embed.errors import ModelFileError
from gguf_embed.gguf_file.header import GgufHeader

ARCHITECTURE = "clip"
"""general.architecture of every mmproj file, whatever the tower is."""

_NEEDED = ("embedding_length", "block_count", "image_size", "patch_size", "attention.head_count")


def check_tower(header: GgufHeader) -> None:
    """Raises `ModelFileError` for a file that is no vision tower, or lacks a number that llama.cpp divides by.

    Whether its projector fits the text model only llama.cpp knows: the tensor that says it differs by projector.
    """
    name = f"--mmproj {header.path}"
    if header.architecture != ARCHITECTURE:
        raise ModelFileError(
            f"{name}: is a {header.architecture} model, not a vision tower: give the mmproj file of the model"
        )
    if not header.get("clip.has_vision_encoder", bool):
        raise ModelFileError(f"{name}: has no vision encoder, and sound is not supported: give one that sees")
    for key in _NEEDED:
        number = header.get(f"clip.vision.{key}", int)
        if number is None or number < 1:
            raise ModelFileError(f"{name}: clip.vision.{key} is {number}, expected at least 1; convert the model again")
