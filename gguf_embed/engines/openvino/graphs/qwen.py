"""Qwen2 and Qwen3 as embedding models: decoders, read from left to right and in one pass, without a KV memory."""

from __future__ import annotations

from gguf_embed.engines.openvino.pieces import GraphPieces
from gguf_embed.engines.openvino.runtime import Node


def qwen(g: GraphPieces) -> Node:
    """[N, D] rows of the tokens. Qwen3 normalizes the queries and keys of each head."""
    n_ff = g.weights.integer("feed_forward_length")
    rope = g.rope()
    is_causal = g.weights.header.get(f"{g.weights.architecture}.attention.causal", bool) is not False
    mask = g.causal_mask() if is_causal else g.padding_mask()
    x = g.tokens
    for layer in g.layers():
        q, k, v = g.query_key_value(g.rms_norm(x, f"{layer}.attn_norm"), layer)
        q, k, v = g.split_heads(q), g.split_heads(k, g.n_head_kv), g.split_heads(v, g.n_head_kv)
        if g.weights.architecture == "qwen3":
            q = g.rms_norm(q, f"{layer}.attn_q_norm", g.head_size)
            k = g.rms_norm(k, f"{layer}.attn_k_norm", g.head_size)
        attended = g.attention(g.rotate(q, rope), g.rotate(k, rope), v, mask)
        x = g.add_linear(x, attended, f"{layer}.attn_output", g.n_head * g.head_size)
        hidden = g.gated(g.rms_norm(x, f"{layer}.ffn_norm"), layer, "silu", n_ff)
        x = g.add_linear(x, hidden, f"{layer}.ffn_down", n_ff)
    return g.rms_norm(x, "output_norm")
