"""The image tower of nomic-embed-vision: rotary positions in two dimensions, a gate with a norm, and an attention pool.

Symbols: B images, T rows per image (the class row, and one for each patch), D dimensions.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gguf_embed.engines.openvino.graphs.image_rows import attended_rows, first_row, one_per_image
from gguf_embed.engines.openvino.pieces import GraphPieces
from gguf_embed.engines.openvino.runtime import Node, constant, op
from gguf_embed.engines.openvino.weights import GraphWeights
from gguf_embed.gguf_file.towers import PROBE

_POOL_KEYS = "head.attn.kv"


def is_nomic(weights: GraphWeights) -> bool:
    """Whether the tower's pool is that of nomic-embed-vision."""
    return weights.has(f"{_POOL_KEYS}.weight")


def pooled_rows(g: GraphPieces, x: Node, side: int) -> Node:
    """[B, T, D] → [B, D], through all layers. `side`: patches in a row of the picture."""
    n_ff, eps = g.weights.integer("feed_forward_length"), g.weights.number("feed_forward_norm_epsilon")
    rope = _rope(g, side)
    for layer in g.layers():
        q, k, v = _query_key_value(g, g.layer_norm(x, f"{layer}.ln1", for_products=True), layer)
        x = g.add_linear(x, attended_rows(g, q, k, v, rope), f"{layer}.attn_out")
        normed = g.layer_norm(x, f"{layer}.ln2", for_products=True)
        hidden = _gated(g, normed, f"{layer}.ffn_up", f"{layer}.ffn_gate", n_ff)
        hidden = g.layer_norm(hidden, f"{layer}.ffn_norm", n_ff, eps, for_products=True)
        x = g.add_linear(x, hidden, f"{layer}.ffn_down", n_ff)
    return _attention_pool(g, x, n_ff)


def _gated(g: GraphPieces, x: Node, up: str, gate: str, n_ff: int) -> Node:
    """[B, T, D] → [B, T, n_ff]: up · activation(gate). The reshaping is that of `GraphPieces.product`."""
    kind = g.weights.text("hidden_activation", "silu")
    product = op.multiply(g.linear(x, up, n_ff), g.activation(g.linear(x, gate, n_ff), kind))
    return op.reshape(product, constant(np.array([0, 0, n_ff], np.int32)), True)


def _query_key_value(g: GraphPieces, x: Node, layer: str) -> list[Node]:
    """[B, T, D] thrice. The original rotates neighbors; here the first half of a head is paired with the second."""
    width = g.n_embd
    matrix = g.weights.array(f"{layer}.attn_qkv.weight", (3 * width, width))
    bias = g.weights.array(f"{layer}.attn_qkv.bias", (3 * width,))
    pairs = np.arange(width).reshape(g.n_head, g.head_size // 2, 2).transpose(0, 2, 1).reshape(width)
    parts = (pairs, width + pairs, 2 * width + np.arange(width))
    return [op.add(op.matmul(x, constant(matrix[part]), False, True), constant(bias[part])) for part in parts]


def _rope(g: GraphPieces, side: int) -> tuple[Node, Node]:
    """cos and sin [1, 1, T, head size], for `GraphPieces.rotate`."""
    if g.head_size % 4:
        raise g.weights.error(f"a head of {g.head_size} dimensions cannot be divided among rows and columns")
    base = g.weights.number("rope.freq_base")
    height, width = (g.weights.integer(f"rope.reference_{name}", side) for name in ("height", "width"))
    angles = patch_angles(side, (height, width), base, g.head_size // 4)
    both = np.concatenate([angles, angles], axis=1)[np.newaxis, np.newaxis]
    return constant(np.cos(both).astype(np.float32)), constant(np.sin(both).astype(np.float32))


def patch_angles(side: int, reference: tuple[int, int], base: float, n_bands: int) -> NDArray[np.float64]:
    """[1 + side², 2 · n_bands]: by a patch's row in the picture, then by its column; 0 for the class row.

    `reference` is the picture, in patches, to whose positions those of this one are stretched.
    """
    bands = base ** -(np.arange(n_bands) / n_bands)
    rows, columns = (np.arange(side)[:, np.newaxis] * length / side * bands for length in reference)
    of_patches = np.concatenate([np.repeat(rows, side, axis=0), np.tile(columns, (side, 1))], axis=1)
    return np.concatenate([np.zeros((1, 2 * n_bands)), of_patches])


def _attention_pool(g: GraphPieces, x: Node, n_ff: int) -> Node:
    """[B, T, D] → [B, D]: a probe attends to all rows; after a gate, its row is added to the class row."""
    width = g.n_embd
    probe = constant(g.weights.flat(PROBE, width).reshape(1, 1, width))
    q = one_per_image(g.linear(probe, "head.attn.q", width), x, width)
    k, v = g.linears(x, _POOL_KEYS, [width, width])
    normed = g.layer_norm(g.linear(attended_rows(g, q, k, v), "head.attn.o", width), "head.ln")
    hidden = _gated(g, normed, "head.mlp.fc11", "head.mlp.fc12", n_ff)
    pooled = g.linear(hidden, "head.mlp.fc2", width, n_ff)
    return op.add(first_row(x), op.squeeze(pooled, constant(np.array([1], np.int32))))
