"""A model file as one graph: which architectures there are, and what follows the encoder."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from gguf_embed.engines.openvino.graphs.bert import bert, jina_bert_v3, mpnet
from gguf_embed.engines.openvino.graphs.clip_text import clip_text
from gguf_embed.engines.openvino.graphs.deberta_v2 import deberta_v2
from gguf_embed.engines.openvino.graphs.gemma_embedding import gemma_embedding
from gguf_embed.engines.openvino.graphs.jina_bert_v2 import jina_bert_v2
from gguf_embed.engines.openvino.graphs.modern_bert import modern_bert
from gguf_embed.engines.openvino.graphs.nomic_bert import nomic_bert
from gguf_embed.engines.openvino.graphs.qwen import qwen
from gguf_embed.engines.openvino.graphs.t5_encoder import t5_encoder
from gguf_embed.engines.openvino.pieces import GraphPieces
from gguf_embed.engines.openvino.precision import Marks
from gguf_embed.engines.openvino.runtime import Node, model_of, op
from gguf_embed.engines.openvino.stored_constants import StoredConstants
from gguf_embed.engines.openvino.support import DECODERS
from gguf_embed.engines.openvino.weights import GraphWeights
from gguf_embed.gguf_file import towers
from gguf_embed.gguf_file.adapters import TensorParts
from gguf_embed.types import Pooling

GRAPHS: Mapping[str, Callable[[GraphPieces], Node]] = {
    "bert": bert,
    "distilbert": bert,
    "mpnet": mpnet,
    "nomic-bert": nomic_bert,
    "gte": nomic_bert,
    "deberta-v2": deberta_v2,
    "modern-bert": modern_bert,
    "jina-bert-v2": jina_bert_v2,
    "jina-bert-v3": jina_bert_v3,
    "gemma-embedding": gemma_embedding,
    "t5encoder": t5_encoder,
    "qwen2": qwen,
    "qwen3": qwen,
    towers.TEXT: clip_text,
}
"""By `general.architecture`."""

HEAD_ACTIVATIONS = {"modern-bert": "gelu", "deberta-v2": "gelu", "distilbert": "relu"}
"""What follows the first matrix of a rank head, if the file does not say; tanh in all other architectures."""


@dataclass(frozen=True, slots=True)
class Network:
    """A graph, not compiled yet.

    Inputs, with the shapes of `Packing`: tokens float32[N, D], rows of the token table; lengths int32[B, 1]; slots
    int32[B, T]; places and positions int32[N]; pooling float32[B, S, T], the weights of each token in each pooled row.
    Outputs: rows float32[N, D]; pooled float32[B, S, n_embd], after the Dense modules if there are any; scores
    float32[B, S, n_scores] if `n_scores`. With adapters there is one more input: float32[N, columns of all tasks].
    """

    model: Any
    n_embd: int  # numbers per pooled row
    n_scores: int  # numbers from the rank head; 0: none
    rank_pooling: Pooling  # what the rank head reads
    marks: Marks
    constants: StoredConstants = field(default_factory=StoredConstants)


def build_network(
    weights: GraphWeights, n_vocab: int, *, rank_head: bool, float32_layers: Collection[int] = ()
) -> Network:
    """The matrices of `float32_layers`, from 0, are among those to be multiplied in float32 whatever the precision.

    Raises `ModelFileError` that names the tensor or key, if the file does not have what its architecture needs."""
    g = GraphPieces(weights, float32_layers)
    weights.check_shape("token_embd.weight", (n_vocab, g.n_embd))  # stays in the file
    if g.adapters is not None:
        for name in ("token_embd", "token_types"):
            weights.check_shape(f"{name}.{TensorParts.RAISING}.weight", (g.n_embd, g.adapters.width))
            weights.check_shape(
                f"{name}.{TensorParts.LOWERING}.weight", (weights.rows(f"{name}.weight"), g.adapters.width)
            )
    rows = GRAPHS[weights.architecture](g)
    of_texts = g.pooled(rows)
    pooled, n_embd = _dense_modules(g, of_texts)
    outputs = [rows, pooled]
    n_scores = 0
    if rank_head:
        scores, n_scores = _rank_head(g, of_texts)
        outputs.append(scores)
    weights.check_all_read()
    model = model_of(outputs, g.inputs, weights.architecture)
    return Network(model, n_embd, n_scores, rank_pooling(weights), g.marks)


def _dense_modules(g: GraphPieces, pooled: Node) -> tuple[Node, int]:
    """Matrices by which pooled rows are multiplied: EmbeddingGemma's, CLIP's. The result, and its numbers per row."""
    width = g.n_embd
    for name in ("dense_2", "dense_3", "projection"):
        if g.weights.has(f"{name}.weight"):
            n_out = g.weights.rows(f"{name}.weight")
            pooled, width = g.linear(pooled, name, n_out, width, exact=True), n_out
    return pooled, width


def rank_pooling(weights: GraphWeights) -> Pooling:
    """What the rank head reads: the first token's row; for decoders the last one's; for ModernBERT as the file says."""
    if weights.architecture in DECODERS:
        return Pooling.LAST
    is_mean = weights.header.get(f"{weights.architecture}.classifier.pooling_type", int) in (None, 1)
    return Pooling.MEAN if weights.architecture == "modern-bert" and is_mean else Pooling.CLS


def _rank_head(g: GraphPieces, row: Node) -> tuple[Node, int]:
    """[B, S, D] → [B, S, n_scores]: BERT's pooler or RoBERTa's dense layer, an activation, and the classifier.

    All in float32: BF16 has no numbers between 2 and 2.0156.
    """
    width = g.n_embd
    if g.weights.has("cls.weight"):
        width = g.weights.rows("cls.weight")
        usual = HEAD_ACTIVATIONS.get(g.weights.architecture, "tanh")
        kind = g.weights.text("classifier.activation", usual)
        row = g.kept_exact(g.activation(g.linear(row, "cls", width, exact=True), kind))
        if g.weights.has("cls.norm.weight"):
            row = g.layer_norm(row, "cls.norm")
    if g.weights.has("cls.output.weight"):
        n_scores = g.weights.rows("cls.output.weight")
        row, width = g.linear(row, "cls.output", n_scores, width, exact=True), n_scores
    if g.weights.architecture == "qwen3":
        row = g.kept_exact(op.softmax(row, -1))
    return row, width
