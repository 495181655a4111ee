"""ModernBERT: layer norms before the blocks, rotary positions, local attention in most layers, GeGLU."""

from __future__ import annotations

from gguf_embed.engines.openvino.pieces import GraphPieces
from gguf_embed.engines.openvino.runtime import Node

ACTIVATIONS = {"gelu": "gelu", "geglu": "gelu", "silu": "silu", "swish": "silu", "swiglu": "silu", "reglu": "relu"}
"""The file's name of the activation of the gate, and ours."""


def modern_bert(g: GraphPieces) -> Node:
    """[N, D] rows of the tokens."""
    n_ff = g.weights.integer("feed_forward_length")
    kind = ACTIVATIONS.get(g.weights.text("hidden_activation", "gelu"), "unknown")
    everywhere = g.rope(), g.padding_mask()
    nearby = g.rope(local=True), g.window_mask(g.weights.window_reach())
    is_local = g.weights.local_layers(3, global_first=True)
    x = g.layer_norm(g.tokens, "token_embd_norm")
    for layer, local in zip(g.layers(), is_local, strict=True):
        rope, mask = nearby if local else everywhere
        has_norm = g.weights.has(f"{layer}.attn_norm.weight")
        q, k, v = g.heads(g.layer_norm(x, f"{layer}.attn_norm", for_products=True) if has_norm else x, layer)
        attended = g.attention(g.rotate(q, rope), g.rotate(k, rope), v, mask)
        x = g.add_linear(x, attended, f"{layer}.attn_output")
        hidden = g.gated(g.layer_norm(x, f"{layer}.ffn_norm", for_products=True), layer, kind, n_ff)
        x = g.add_linear(x, hidden, f"{layer}.ffn_down", n_ff)
    return g.layer_norm(x, "output_norm")
