"""What is added to attention scores by the distance of two tokens, learned or not. Shapes as in `pieces.py`."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gguf_embed.engines.openvino.pieces import MASKED, GraphPieces
from gguf_embed.engines.openvino.relative_positions import MAX_BUCKETS, MIN_BUCKETS, t5_buckets
from gguf_embed.engines.openvino.runtime import Node, constant, op
from gguf_embed.types import FloatMatrix


def alibi_mask(g: GraphPieces, max_bias: float) -> Node:
    """[B, H, T, T]: scores decrease with the distance of two tokens, at a slope per head."""
    numbers = op.unsqueeze(op.abs(g.distances()), constant(np.array([0, 1])))
    distance = g.kept_exact(op.convert(numbers, "f32"))  # BF16 has no odd numbers over 256
    slopes = -alibi_slopes(g.n_head, max_bias).reshape(1, g.n_head, 1, 1)
    return masked(g, op.multiply(constant(slopes), distance))


def alibi_slopes(n_head: int, max_bias: float) -> FloatMatrix:
    """float32[n_head], as in the ALiBi paper: a geometric sequence, interleaved if n_head is no power of two."""
    power = 2 ** math.floor(math.log2(n_head))
    first, second = 2 ** (-max_bias / power), 2 ** (-max_bias / 2 / power)
    slopes = [first ** (number + 1) for number in range(power)]
    slopes += [second ** (2 * number + 1) for number in range(n_head - power)]
    return np.array(slopes, np.float32)


def bias_mask(g: GraphPieces, name: str) -> Node:
    """[B, H, T, T]: T5's and MPNet's learned bias of each head for the bucket of the distance of two tokens."""
    n_buckets = relative_buckets(g)
    biases = g.weights.array(f"{name}.weight", (n_buckets, g.n_head))
    bias = op.transpose(by_distance(g, biases[t5_buckets(n_buckets)]), constant(np.array([2, 0, 1], np.int32)))
    return masked(g, op.unsqueeze(bias, constant(np.int32(0))))


def relative_buckets(g: GraphPieces) -> int:
    """Of distances. Raises `ModelFileError` for a number of which no half is left for each direction."""
    key = "attention.relative_buckets_count"
    n_buckets = g.weights.integer(key)
    if n_buckets % 2 or not MIN_BUCKETS <= n_buckets <= MAX_BUCKETS:
        raise g.weights.error(
            f"{g.weights.architecture}.{key} is {n_buckets}, "
            f"expected an even number from {MIN_BUCKETS} to {MAX_BUCKETS}"
        )
    return n_buckets


def by_distance(g: GraphPieces, values: NDArray[Any]) -> Node:
    """[T, T, …] from a constant [2M + 1, …] for the distances -M to M; farther ones count as M."""
    reach = len(values) // 2
    near = op.minimum(op.maximum(g.distances(), constant(np.int32(-reach))), constant(np.int32(reach)))
    rows = op.add(near, constant(np.int32(reach)))
    return op.gather(constant(values), rows, constant(np.int32(0)))


def masked(g: GraphPieces, scores: Node) -> Node:
    """[B, H, T, T], in which the slots after a text's end are `MASKED`."""
    return op.select(g.is_token(), scores, constant(np.float32(MASKED)))
