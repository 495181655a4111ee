"""T5's encoder: RMS norms before the blocks, no positions but a bias for distances, products that are not scaled."""

from __future__ import annotations

from gguf_embed.engines.openvino.distance_bias import bias_mask
from gguf_embed.engines.openvino.pieces import GraphPieces
from gguf_embed.engines.openvino.runtime import Node


def t5_encoder(g: GraphPieces) -> Node:
    """[N, D] rows of the tokens. The layers share the first one's bias."""
    n_ff = g.weights.integer("feed_forward_length")
    n_attended = g.n_head * g.head_size
    mask = bias_mask(g, "enc.blk.0.attn_rel_b")
    x = g.tokens
    for layer in (f"enc.{name}" for name in g.layers()):
        q, k, v = g.heads(g.rms_norm(x, f"{layer}.attn_norm"), layer)
        attended = g.attention(q, k, v, mask, scale=1.0)
        x = g.add_linear(x, attended, f"{layer}.attn_o", n_attended)
        hidden = _feed_forward(g, g.rms_norm(x, f"{layer}.ffn_norm"), layer, n_ff)
        x = g.add_linear(x, hidden, f"{layer}.ffn_down", n_ff)
    return g.rms_norm(x, "enc.output_norm")


def _feed_forward(g: GraphPieces, x: Node, layer: str, n_ff: int) -> Node:
    """ReLU in the first T5; in version 1.1 GeGLU with the approximation of GELU."""
    if g.weights.has(f"{layer}.ffn_gate.weight"):
        return g.gated(x, layer, "gelu_tanh", n_ff)
    return g.activation(g.linear(x, f"{layer}.ffn_up", n_ff), "relu")
