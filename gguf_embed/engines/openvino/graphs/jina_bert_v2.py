"""Jina's BERT, version 2: BERT with ALiBi instead of learned positions, and GeGLU."""

from __future__ import annotations

from gguf_embed.engines.openvino.distance_bias import alibi_mask
from gguf_embed.engines.openvino.pieces import GraphPieces
from gguf_embed.engines.openvino.runtime import Node, op

MAX_BIAS = 8.0
"""What ALiBi's slopes begin with, as in the paper; the file does not say it."""


def jina_bert_v2(g: GraphPieces) -> Node:
    """[N, D] rows of the tokens."""
    n_ff = g.weights.integer("feed_forward_length")
    mask = alibi_mask(g, MAX_BIAS)
    x = op.add(g.tokens, g.row("token_types", 0, g.weights.rows("token_types.weight")))
    x = g.layer_norm(x, "token_embd_norm")
    for layer in g.layers():
        q, k, v = _heads(g, x, layer)
        attended = g.attention(q, k, v, mask)
        before = x
        x = g.layer_norm(g.add_linear(x, attended, f"{layer}.attn_output"), f"{layer}.attn_output_norm")
        if g.weights.has(f"{layer}.attn_norm_2.weight"):
            x = g.layer_norm(op.add(x, before), f"{layer}.attn_norm_2")
        x = g.add_linear(x, _feed_forward(g, x, layer, n_ff), f"{layer}.ffn_down", n_ff)
        x = g.layer_norm(x, f"{layer}.layer_output_norm")
    return x


def _heads(g: GraphPieces, x: Node, layer: str) -> tuple[Node, Node, Node]:
    """The variant for code normalizes queries and keys over all heads."""
    norms = [f"{layer}.attn_q_norm", f"{layer}.attn_k_norm"]
    if not any(g.weights.has(f"{name}.weight") for name in norms):
        return g.heads(x, layer)
    q, k, v = g.query_key_value(x, layer)
    q, k = (
        g.layer_norm(y, name, g.n_head * g.head_size) if g.weights.has(f"{name}.weight") else y
        for y, name in zip((q, k), norms, strict=True)
    )
    return g.split_heads(q), g.split_heads(k), g.split_heads(v)


def _feed_forward(g: GraphPieces, x: Node, layer: str, n_ff: int) -> Node:
    """GeGLU. A fused `ffn_up` has the gate first; in the variant for code, which has `attn_norm_2`, it has it last."""
    if not g.weights.has(f"{layer}.ffn_gate.weight") and g.weights.rows(f"{layer}.ffn_up.weight") == n_ff:
        return g.activation(g.linear(x, f"{layer}.ffn_up", n_ff), "gelu")
    if g.weights.has(f"{layer}.ffn_gate.weight") or not g.weights.has(f"{layer}.attn_norm_2.weight"):
        return g.gated(x, layer, "gelu", n_ff)
    up, gate = g.linears(x, f"{layer}.ffn_up", [n_ff, n_ff])
    return g.product(g.activation(gate, "gelu"), up, layer, n_ff)
