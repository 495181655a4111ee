"""DeBERTa, version 2 and 3: BERT whose attention scores contents and distances separately, with the same matrices."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from gguf_embed.engines.openvino.distance_bias import by_distance, masked, relative_buckets
from gguf_embed.engines.openvino.pieces import GraphPieces
from gguf_embed.engines.openvino.relative_positions import deberta_rows
from gguf_embed.engines.openvino.runtime import Node, constant, op
from gguf_embed.types import FloatMatrix

N_SCORES = 3
"""Content to content, content to distance, distance to content: by this their products are divided, under the root."""


@dataclass(frozen=True, slots=True)
class Distances:
    """The table of distances [R, D], and which of its rows each pair of slots has, counted from `first`.

    Short texts need few of its rows: with only those, 12 texts of 21 tokens take half of the time.
    """

    table: FloatMatrix
    first: Node  # [1]
    end: Node  # [1], one after the last
    of_seen: Node  # [B, H, T, T], by the seeing token, then the seen one
    of_seeing: Node  # the same by the seen token, then the seeing one


def deberta_v2(g: GraphPieces) -> Node:
    """[N, D] rows of the tokens."""
    n_ff = g.weights.integer("feed_forward_length")
    distances = _distances(g)
    scale = 1 / math.sqrt(N_SCORES * g.head_size)
    x = g.tokens
    if g.weights.has("token_types.weight"):
        x = op.add(x, g.row("token_types", 0, g.weights.rows("token_types.weight")))
    x = g.layer_norm(x, "token_embd_norm")
    for layer in g.layers():
        q, k, v = g.heads(x, layer)
        attended = g.attention(q, k, v, _bias(g, layer, q, k, distances, scale), scale)
        x = g.add_linear(x, attended, f"{layer}.attn_output")
        x = g.layer_norm(x, f"{layer}.attn_output_norm")
        hidden = g.activation(g.linear(x, f"{layer}.ffn_up", n_ff), "gelu")
        x = g.add_linear(x, hidden, f"{layer}.ffn_down", n_ff)
        x = g.layer_norm(x, f"{layer}.layer_output_norm")
    return x


def _distances(g: GraphPieces) -> Distances:
    n_buckets, max_distance = relative_buckets(g), g.weights.integer("attention.max_relative_positions")
    if max_distance <= n_buckets // 2 + 1:
        raise g.weights.error(
            f"attention.max_relative_positions is {max_distance} for {n_buckets} buckets of distances"
        )
    table = g.weights.array("rel_embd.weight", (2 * n_buckets, g.n_embd))
    centered = table - table.mean(axis=1, keepdims=True)
    variance = np.square(centered).mean(axis=1, keepdims=True)
    normed = centered / np.sqrt(variance + np.float32(g.weights.number("attention.layer_norm_epsilon")))
    weight, bias = (g.weights.array(f"rel_embd_norm.{part}", (g.n_embd,)) for part in ("weight", "bias"))
    rows = by_distance(g, deberta_rows(n_buckets, max_distance))
    flat = op.reshape(rows, constant(np.array([-1], np.int32)), False)
    first, last = (reduce(flat, constant(np.array([0], np.int32)), True) for reduce in (op.reduce_min, op.reduce_max))
    texts_and_slots = op.shape_of(g.slots, "i32")
    shape = [op.gather(texts_and_slots, constant(np.array([at], np.int32)), constant(np.int32(0))) for at in (0, 1, 1)]
    shape.insert(1, constant(np.array([g.n_head], np.int32)))
    of_seen = op.broadcast(op.subtract(rows, first), op.concat(shape, 0))
    of_seeing = op.transpose(of_seen, constant(np.array([0, 1, 3, 2])))
    end = op.add(last, constant(np.array([1], np.int32)))
    return Distances(normed * weight + bias, first, end, of_seen, of_seeing)


def _bias(g: GraphPieces, layer: str, q: Node, k: Node, distances: Distances, scale: float) -> Node:
    """[B, H, T, T]: what the distance of two tokens adds to their score."""
    content_to_distance = op.matmul(q, _heads(g, f"{layer}.attn_k", distances, scale), False, False)
    distance_to_content = op.matmul(k, _heads(g, f"{layer}.attn_q", distances, scale), False, False)
    seen = op.gather_elements(content_to_distance, distances.of_seen, 3)
    seeing = op.gather_elements(distance_to_content, distances.of_seeing, 3)
    return masked(g, op.add(seen, op.transpose(seeing, constant(np.array([0, 1, 3, 2])))))


def _heads(g: GraphPieces, name: str, distances: Distances, scale: float) -> Node:
    """[H, head size, rows that any pair has]: the table of distances as keys or queries."""
    matrix = g.weights.array(f"{name}.weight", (g.n_embd, g.n_embd))
    projected = (distances.table @ matrix.T + g.weights.array(f"{name}.bias", (g.n_embd,))) * np.float32(scale)
    heads = constant(np.ascontiguousarray(projected.reshape(-1, g.n_head, g.head_size).transpose(1, 2, 0)))
    one, axis = constant(np.array([1], np.int32)), constant(np.array([2], np.int32))
    return op.slice(heads, distances.first, distances.end, one, axis)
