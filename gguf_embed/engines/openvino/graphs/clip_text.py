"""The text towers of CLIP and SigLIP: learned positions, layer norms before attention and feed-forward."""

from __future__ import annotations

from gguf_embed.engines.openvino.pieces import GraphPieces
from gguf_embed.engines.openvino.runtime import Node, op


def clip_text(g: GraphPieces) -> Node:
    """[N, D] rows of the tokens. CLIP's tokens see only those before them, SigLIP's all."""
    n_ff = g.weights.integer("feed_forward_length")
    kind = g.weights.text("hidden_activation", "quick_gelu")
    is_causal = g.weights.header.get(f"{g.weights.architecture}.attention.causal", bool)
    mask = g.causal_mask() if is_causal else g.padding_mask()
    x = op.add(g.tokens, g.position_rows("position_embd"))
    for layer in g.layers():
        q, k, v = g.heads(g.layer_norm(x, f"{layer}.ln1", for_products=True), layer)
        attended = g.attention(q, k, v, mask)
        x = g.add_linear(x, attended, f"{layer}.attn_out")
        hidden = g.linear(g.layer_norm(x, f"{layer}.ln2", for_products=True), f"{layer}.ffn_up", n_ff)
        x = g.add_linear(x, g.activation(hidden, kind), f"{layer}.ffn_down", n_ff)
    return g.layer_norm(x, "post_ln")
