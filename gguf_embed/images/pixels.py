"""A picture as an image tower reads it: decoded, resized, cut to a square, scaled, as patches. Uses Pillow.

The steps are those of Hugging Face's image processors: Pillow's bicubic filter, which smooths when it makes smaller.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from gguf_embed.errors import InvalidRequest
from gguf_embed.images.checks import check_image, check_pixels

if TYPE_CHECKING:
    from PIL import Image

_FORMATS = ("PNG", "JPEG", "WEBP")


@dataclass(frozen=True, slots=True)
class PixelForm:
    """What a tower reads: square pictures of `size` pixels a side, in patches of `patch_size`."""

    size: int
    patch_size: int
    mean: tuple[float, ...]  # of red, green and blue, from 0 to 1
    std: tuple[float, ...]
    resize: Literal["crop", "squash"]  # crop: the middle of the picture; squash: all of it, whatever its shape


def read_patches(data: bytes, form: PixelForm, where: str) -> NDArray[np.float32]:
    """float32[patches, 3 · patch_size²] of a PNG, JPEG or WebP. `where` names it in errors.

    Raises `InvalidRequest` for anything else, and for a file that is damaged or over a limit.
    """
    check_image(data, where)
    check_pixels(data, where)
    return patches(_square(_decoded(data, where), form), form)


def _decoded(data: bytes, where: str) -> Image.Image:
    """The picture upright, in red, green and blue. `check_image` has limited its size."""
    from PIL import Image  # imported here, because only models with an image tower need it

    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as opened:
            opened.load()
            return _opaque(_upright(opened))
    except Exception as error:  # its decoders raise nothing more specific
        raise InvalidRequest(f"{where} the image is damaged: save it again, and send the new file") from error


def _upright(image: Image.Image) -> Image.Image:
    """Turned as its EXIF says; as it is if that cannot be read."""
    from PIL import ImageOps

    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # struct.error, KeyError and others, whatever the EXIF contains
        return image


def _opaque(image: Image.Image) -> Image.Image:
    """In red, green and blue; what is transparent is white."""
    from PIL import Image

    if "A" not in image.getbands() and image.info.get("transparency") is None:
        return image.convert("RGB")
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")


def _square(image: Image.Image, form: PixelForm) -> Image.Image:
    from PIL import Image

    size = form.size
    if form.resize == "squash":
        return image.resize((size, size), Image.Resampling.BICUBIC)
    width, height = image.size
    short = min(width, height)
    resized = image.resize((size * width // short, size * height // short), Image.Resampling.BICUBIC)
    left, top = (resized.width - size) // 2, (resized.height - size) // 2
    return resized.crop((left, top, left + size, top + size))


def patches(image: Image.Image, form: PixelForm) -> NDArray[np.float32]:
    """float32[patches, 3 · patch_size²]: a row of the picture's patches after the other; colors first in a patch."""
    levels = np.asarray(image, np.float32) * np.float32(1 / 255)
    scaled = (levels - np.array(form.mean, np.float32)) / np.array(form.std, np.float32)
    n, p = form.size // form.patch_size, form.patch_size
    grid = scaled[: n * p, : n * p].reshape(n, p, n, p, 3)  # row, y, column, x, color
    return np.ascontiguousarray(grid.transpose(0, 2, 4, 1, 3).reshape(n * n, 3 * p * p))
