"""Vectors as models return them, and pure numpy functions on them. Sparse and joint ones are in their own modules."""

from gguf_embed.vectors.rows import (
    INT8_SCALE,
    INT16_SCALE,
    Rows,
    SmallDtype,
    SmallMatrix,
    finish,
    normalize,
    quantize,
)

__all__ = ["INT8_SCALE", "INT16_SCALE", "Rows", "SmallDtype", "SmallMatrix", "finish", "normalize", "quantize"]
