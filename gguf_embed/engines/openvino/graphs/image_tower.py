"""Image towers: patches as rows, pre-norm layers, and the class row or an attention pool. CLIP's and SigLIP's layers.

Symbols: B images, T rows per image (patches, and the class row), D dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gguf_embed.engines.openvino.graphs import nomic_vision
from gguf_embed.engines.openvino.graphs.image_rows import attended_rows, first_row, one_per_image
from gguf_embed.engines.openvino.pieces import GraphPieces
from gguf_embed.engines.openvino.precision import Marks
from gguf_embed.engines.openvino.runtime import Node, constant, model_of, op
from gguf_embed.engines.openvino.weights import GraphWeights
from gguf_embed.gguf_file.towers import PROBE
from gguf_embed.images.pixels import PixelForm


@dataclass(frozen=True, slots=True)
class ImageNetwork:
    """A graph, not compiled yet. Input: float32[B, patches, 3 · patch²]; output: float32[B, n_embd]."""

    model: Any
    n_embd: int
    n_rows: int  # T
    marks: Marks


def build_image_network(weights: GraphWeights, form: PixelForm) -> ImageNetwork:
    """Raises `ModelFileError` that names the tensor or key, if the file does not have what such a tower needs."""
    g = GraphPieces(weights)
    n_patches, n_numbers = (form.size // form.patch_size) ** 2, 3 * form.patch_size**2
    pixels = op.parameter([-1, n_patches, n_numbers], np.float32, name="pixels")
    x, n_rows = _embedded(g, pixels, n_patches, n_numbers)
    if nomic_vision.is_nomic(weights):
        pooled = nomic_vision.pooled_rows(g, x, form.size // form.patch_size)
    else:
        pooled = _pooled_rows(g, x)
    n_embd = g.n_embd
    if weights.has("projection.weight"):
        n_embd = weights.rows("projection.weight")
        pooled = g.linear(pooled, "projection", n_embd, g.n_embd, exact=True)
    weights.check_all_read()
    return ImageNetwork(model_of([pooled], [pixels], weights.architecture), n_embd, n_rows, g.marks)


def _pooled_rows(g: GraphPieces, x: Node) -> Node:
    """[B, T, D] → [B, D], through all layers."""
    weights = g.weights
    n_ff, kind = weights.integer("feed_forward_length"), weights.text("hidden_activation", "quick_gelu")
    for layer in g.layers():
        q, k, v = g.query_key_value(g.layer_norm(x, f"{layer}.ln1", for_products=True), layer)
        x = g.add_linear(x, attended_rows(g, q, k, v), f"{layer}.attn_out")
        hidden = g.linear(g.layer_norm(x, f"{layer}.ln2", for_products=True), f"{layer}.ffn_up", n_ff)
        x = g.add_linear(x, g.activation(hidden, kind), f"{layer}.ffn_down", n_ff)
    if weights.has(PROBE):
        return _attention_pool(g, g.layer_norm(x, "post_ln"), n_ff, kind)
    return g.layer_norm(first_row(x), "post_ln")


def _embedded(g: GraphPieces, pixels: Node, n_patches: int, n_numbers: int) -> tuple[Node, int]:
    """[B, T, D], and T: a row for each patch, and before them the class row where the tower has one."""
    weights = g.weights
    matrix = weights.flat("patch_embd.weight", g.n_embd * n_numbers).reshape(g.n_embd, n_numbers)
    x = g.kept_exact(op.matmul(pixels, constant(matrix), False, True))
    if weights.has("patch_embd.bias"):
        x = op.add(x, g.bias(weights.array("patch_embd.bias", (g.n_embd,)), pixels, exact=True))
    n_rows = n_patches
    if weights.has("class_embd"):
        row = constant(weights.flat("class_embd", g.n_embd).reshape(1, 1, g.n_embd))
        x = op.concat([one_per_image(row, x, g.n_embd), x], 1)
        n_rows += 1
    x = op.add(x, constant(weights.array("position_embd.weight", (n_rows, g.n_embd))[np.newaxis]))
    return (g.layer_norm(x, "pre_ln") if weights.has("pre_ln.weight") else x), n_rows


def _attention_pool(g: GraphPieces, x: Node, n_ff: int, kind: str) -> Node:
    """[B, T, D] → [B, D]: SigLIP's probe attends to all rows, then a feed-forward layer with a residual."""
    probe = constant(g.weights.flat(PROBE, g.n_embd).reshape(1, 1, g.n_embd))
    width = g.n_embd
    in_weight = g.weights.array("head.attn.in_proj.weight", (3 * width, width))
    in_bias = g.weights.array("head.attn.in_proj.bias", (3 * width,))
    parts = [slice(number * width, (number + 1) * width) for number in range(3)]
    inputs = (probe, x, x)
    q, k, v = (
        op.add(op.matmul(rows, constant(in_weight[part]), False, True), constant(in_bias[part]))
        for rows, part in zip(inputs, parts, strict=True)
    )
    pooled = g.linear(attended_rows(g, one_per_image(q, x, width), k, v), "head.attn.o", width)
    hidden = g.activation(g.linear(g.layer_norm(pooled, "head.ln"), "head.mlp.fc1", n_ff), kind)
    pooled = op.add(pooled, g.linear(hidden, "head.mlp.fc2", width, n_ff))
    return op.squeeze(pooled, constant(np.array([1], np.int32)))
