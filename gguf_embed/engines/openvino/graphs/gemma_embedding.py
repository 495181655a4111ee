"""EmbeddingGemma: Gemma 3 that reads in both directions, with a sliding window in most layers."""

from __future__ import annotations

import math

import numpy as np

from gguf_embed.engines.openvino.pieces import GraphPieces
from gguf_embed.engines.openvino.runtime import Node, constant, op


def gemma_embedding(g: GraphPieces) -> Node:
    """[N, D] rows of the tokens. RMS norms are around both blocks; the file's weights include Gemma's 1 +."""
    n_ff = g.weights.integer("feed_forward_length")
    everywhere = g.rope(), g.padding_mask()
    nearby = g.rope(local=True), g.window_mask(g.weights.window_reach())
    is_local = g.weights.local_layers(6, global_first=False)
    x = op.multiply(g.tokens, constant(np.float32(math.sqrt(g.n_embd))))
    for layer, local in zip(g.layers(), is_local, strict=True):
        rope, mask = nearby if local else everywhere
        q, k, v = g.query_key_value(g.rms_norm(x, f"{layer}.attn_norm"), layer)
        q, k, v = g.split_heads(q), g.split_heads(k, g.n_head_kv), g.split_heads(v, g.n_head_kv)
        q = g.rotate(g.rms_norm(q, f"{layer}.attn_q_norm", g.head_size), rope)
        k = g.rotate(g.rms_norm(k, f"{layer}.attn_k_norm", g.head_size), rope)
        attended = g.linear(g.attention(q, k, v, mask), f"{layer}.attn_output", g.n_embd, g.n_head * g.head_size)
        x = op.add(x, g.rms_norm(attended, f"{layer}.post_attention_norm"))
        hidden = g.gated(g.rms_norm(x, f"{layer}.ffn_norm"), layer, "gelu_tanh", n_ff)
        hidden = g.linear(hidden, f"{layer}.ffn_down", g.n_embd, n_ff)
        x = op.add(x, g.rms_norm(hidden, f"{layer}.post_ffw_norm"))
    return g.rms_norm(x, "output_norm")
