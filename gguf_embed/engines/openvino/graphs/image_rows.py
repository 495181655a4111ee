"""What image towers share: attention among the rows of an image.

Symbols: B images, T rows per image, D dimensions, H heads.
"""

from __future__ import annotations

import numpy as np

from gguf_embed.engines.openvino.pieces import GraphPieces
from gguf_embed.engines.openvino.runtime import Node, constant, op


def attended_rows(g: GraphPieces, q: Node, k: Node, v: Node, rope: tuple[Node, Node] | None = None) -> Node:
    """[B, T, D] each → [B, T, D]: every row sees all rows of its image. `rope`: cos and sin by which to rotate."""
    queries, keys, values = (g.by_head(x) for x in (q, k, v))
    if rope is not None:
        queries, keys = g.rotate(queries, rope), g.rotate(keys, rope)
    merged = op.transpose(g.attended(queries, keys, values), constant(np.array([0, 2, 1, 3], np.int32)))
    return op.reshape(merged, constant(np.array([0, 0, g.n_embd], np.int32)), True)


def one_per_image(row: Node, x: Node, width: int) -> Node:
    """[1, 1, width] → [B, 1, width], for the B images of `x`."""
    batch = op.gather(op.shape_of(x, "i32"), constant(np.array([0], np.int32)), constant(np.int32(0)))
    return op.broadcast(row, op.concat([batch, constant(np.array([1, width], np.int32))], 0))


def first_row(x: Node) -> Node:
    """[B, T, D] → [B, D]."""
    return op.gather(x, constant(np.int32(0)), constant(np.int32(1)))
