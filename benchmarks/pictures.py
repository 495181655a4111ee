"""JPEG files that look to a decoder like photos: seeded gradients with noise of several sizes. Uses Pillow."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIZES = ((640, 480), (480, 640), (800, 600), (512, 512))
"""Width and height, in turn."""

_GRAINS = (4, 16, 64)  # pixels of noise along the longer side, from coarse to fine
_QUALITY = 90


def make_jpegs(seed: str, n_pictures: int) -> list[bytes]:
    """Equal seeds give equal files with the same version of Pillow."""
    rng = np.random.default_rng(list(seed.encode()))
    return [_jpeg(_picture(rng, *SIZES[number % len(SIZES)])) for number in range(n_pictures)]


def _picture(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """A gradient from one color to another, with noise of each grain."""
    first, last = rng.integers(0, 256, (2, 3))
    slope = np.linspace(0, 1, width)[:, np.newaxis] * (last - first) + first
    levels: NDArray[np.float64] = np.broadcast_to(slope, (height, width, 3)).copy()
    for grain in _GRAINS:
        noise = rng.integers(0, 256, (grain, grain, 3), np.uint8)
        smooth = Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)
        levels += (np.asarray(smooth, np.float64) - 128) / len(_GRAINS)
    return Image.fromarray(np.clip(levels, 0, 255).astype(np.uint8))


def _jpeg(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue()
