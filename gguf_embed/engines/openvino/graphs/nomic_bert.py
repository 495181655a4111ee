"""NomicBERT and GTE: BERT with rotary positions instead of learned ones, and a gate: SwiGLU or GeGLU."""

from __future__ import annotations

from gguf_embed.engines.openvino.pieces import GraphPieces
from gguf_embed.engines.openvino.runtime import Node, op


def nomic_bert(g: GraphPieces) -> Node:
    """[N, D] rows of the tokens."""
    n_ff = g.weights.integer("feed_forward_length")
    kind = g.weights.text("hidden_activation", "silu")
    rope = g.rope()
    mask = g.padding_mask()
    x = g.tokens
    if g.weights.has("token_types.weight"):
        x = op.add(x, g.row("token_types", 0, g.weights.rows("token_types.weight")))
    x = g.layer_norm(x, "token_embd_norm")
    for layer in g.layers():
        q, k, v = g.heads(x, layer)
        attended = g.attention(g.rotate(q, rope), g.rotate(k, rope), v, mask)
        x = g.add_linear(x, attended, f"{layer}.attn_output")
        x = g.layer_norm(x, f"{layer}.attn_output_norm")
        hidden = g.gated(x, layer, kind, n_ff)
        x = g.add_linear(x, hidden, f"{layer}.ffn_down", n_ff)
        x = g.layer_norm(x, f"{layer}.layer_output_norm")
    return x
