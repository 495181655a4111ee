"""BERT and its relatives, RoBERTa, DistilBERT, MPNet and jina-embeddings-v3: layer norms after the residuals, GELU."""

from __future__ import annotations

from gguf_embed.engines.openvino.distance_bias import bias_mask
from gguf_embed.engines.openvino.pieces import GraphPieces
from gguf_embed.engines.openvino.runtime import Node, op


def bert(g: GraphPieces) -> Node:
    """[N, D] rows of the tokens."""
    return _encoder(g, g.padding_mask())


def mpnet(g: GraphPieces) -> Node:
    """[N, D] rows of the tokens: BERT, whose layers share a bias for the distances of tokens."""
    return _encoder(g, bias_mask(g, "rel_attn_bias"))


def jina_bert_v3(g: GraphPieces) -> Node:
    """[N, D] rows of the tokens: BERT with rotary positions."""
    return _encoder(g, g.padding_mask(), g.rope())


def _encoder(g: GraphPieces, mask: Node, rope: tuple[Node, Node] | None = None) -> Node:
    n_ff = g.weights.integer("feed_forward_length")
    kind = g.weights.text("hidden_activation", "gelu")
    x = g.tokens if rope is not None else op.add(g.tokens, g.position_rows("position_embd"))
    if g.weights.has("token_types.weight"):
        x = op.add(x, g.row("token_types", 0, g.weights.rows("token_types.weight")))
    x = g.layer_norm(x, "token_embd_norm")
    for layer in g.layers():
        q, k, v = g.heads(x, layer)
        if rope is not None:
            q, k = g.rotate(q, rope), g.rotate(k, rope)
        attended = g.attention(q, k, v, mask)
        x = g.add_linear(x, attended, f"{layer}.attn_output")
        x = g.layer_norm(x, f"{layer}.attn_output_norm")
        hidden = g.activation(g.linear(x, f"{layer}.ffn_up", n_ff), kind)
        x = g.add_linear(x, hidden, f"{layer}.ffn_down", n_ff)
        x = g.layer_norm(x, f"{layer}.layer_output_norm")
    return x
