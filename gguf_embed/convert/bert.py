"""BERT and its relatives: RoBERTa, XLM-RoBERTa, CamemBERT, DistilBERT, which llama.cpp runs as "bert", and MPNet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import gguf

from gguf_embed.convert.colbert_head import is_stanford
from gguf_embed.convert.encoder import Dimensions, Shapes, TensorNames, linear, plan_tensors, read_sizes
from gguf_embed.convert.encoder import write_dimensions as write_encoder
from gguf_embed.convert.heads import RankHead, pooling_of, read_rank_head, write_rank_head
from gguf_embed.convert.plan import ConversionPlan, OutType
from gguf_embed.convert.source import MAX_LAYERS, ModelSourceDirectory
from gguf_embed.convert.tokenizer import read_tokenizer
from gguf_embed.errors import ModelFileError

_GELU = ("gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "gelu_python")
"""llama.cpp computes the tanh approximation for all of them; the exact form differs by less than 0.0005."""

_EMBEDDINGS = {
    "embeddings.word_embeddings": "token_embd",
    "embeddings.position_embeddings": "position_embd",
    "embeddings.token_type_embeddings": "token_types",
    "embeddings.LayerNorm": "token_embd_norm",
}
_RELATIVE_BIAS = "encoder.relative_attention_bias"
_BUFFERS = ("embeddings.position_ids", "embeddings.token_type_ids")  # older checkpoints hold these counters
_BERT_LAYER = {
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}
_DISTILBERT_LAYER = {
    "attention.q_lin": "attn_q",
    "attention.k_lin": "attn_k",
    "attention.v_lin": "attn_v",
    "attention.out_lin": "attn_output",
    "sa_layer_norm": "attn_output_norm",
    "ffn.lin1": "ffn_up",
    "ffn.lin2": "ffn_down",
    "output_layer_norm": "layer_output_norm",
}
_DISTILBERT_EPS = 1e-12  # fixed in the model's code
_MPNET_LAYER = {
    "attention.attn.q": "attn_q",
    "attention.attn.k": "attn_k",
    "attention.attn.v": "attn_v",
    "attention.attn.o": "attn_output",
    "attention.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}
_MPNET_PADDING, _MPNET_BUCKETS = 1, 32  # fixed in the model's code, whatever the config says


@dataclass(frozen=True, slots=True)
class BertFamily:
    """The differences between BERT's relatives."""

    prefix: str  # before the encoder's tensor names in models with a head
    head: Mapping[str, str]  # the classification head's tensors, as in `TensorNames.model`
    ignored: tuple[str, ...]
    layers: str = "encoder.layer."
    layer: Mapping[str, str] = field(default_factory=lambda: _BERT_LAYER)
    has_token_types: bool = True
    positions_after_padding: bool = False  # position 0 is the row after the one with the padding token's id
    architecture: str = "bert"  # in the GGUF
    classifier: str = "bert"  # the same with a head


_BERT = BertFamily(
    "bert.", {"pooler.dense": "cls", "classifier": "cls.output"}, ("cls.predictions.", "cls.seq_relationship.")
)
_ROBERTA = BertFamily(
    "roberta.",
    {"classifier.dense": "cls", "classifier.out_proj": "cls.output"},
    ("lm_head.",),
    positions_after_padding=True,
)
_DISTILBERT = BertFamily(
    "distilbert.",
    {"pre_classifier": "cls", "classifier": "cls.output"},
    ("vocab_transform.", "vocab_layer_norm.", "vocab_projector."),
    layers="transformer.layer.",
    layer=_DISTILBERT_LAYER,
    has_token_types=False,
    classifier="distilbert",
)
_MPNET = BertFamily(
    "mpnet.",
    _ROBERTA.head,
    _ROBERTA.ignored,
    layer=_MPNET_LAYER,
    has_token_types=False,
    positions_after_padding=True,
    architecture="mpnet",
    classifier="mpnet",
)
_FAMILIES = {
    "Bert": _BERT,
    "Roberta": _ROBERTA,
    "XLMRoberta": _ROBERTA,
    "Camembert": _ROBERTA,
    "DistilBert": _DISTILBERT,
    "MPNet": _MPNET,
}
_KINDS = ("Model", "ForMaskedLM", "ForSequenceClassification")

ARCHITECTURES = tuple(family + kind for family in _FAMILIES for kind in _KINDS)


def plan_bert(source: ModelSourceDirectory, architecture: str, outtype: OutType) -> ConversionPlan:
    """Check the config and decide names and types of all tensors. `architecture` is one of `ARCHITECTURES`.

    Raises `ModelFileError` for a variant that no engine computes, and for missing or unknown tensors.
    """
    family = _FAMILIES[next(name for name in _FAMILIES if architecture == name + _kind(architecture))]
    _check_config(source)
    head = read_rank_head(source, family.head)
    first_row = _first_row(source, family)
    dimensions = _distilbert_dimensions(source) if family is _DISTILBERT else _dimensions(source, family, first_row)
    names = TensorNames(
        family.prefix,
        family.layers,
        _EMBEDDINGS | {_RELATIVE_BIAS: "rel_attn_bias"} | dict(head.names if head else {}),
        family.layer,
        (*_ignored(family, head), *(("linear.",) if is_stanford(source) else ())),
    )
    shapes = _shapes(dimensions, head, has_token_types=family.has_token_types)
    if family is _MPNET:
        shapes["rel_attn_bias.weight"] = (_MPNET_BUCKETS, dimensions.n_head)
    tensors = plan_tensors(source, names, shapes, outtype, skipped_rows={"position_embd.weight": first_row})
    vocabulary, pooling = read_tokenizer(source, dimensions.n_vocab), pooling_of(source, head)

    def write_metadata(writer: gguf.GGUFWriter) -> None:
        write_encoder(writer, dimensions, pooling)
        if family is _MPNET:
            writer.add_relative_attn_buckets_count(_MPNET_BUCKETS)
        if head is not None:
            write_rank_head(writer, head)
        vocabulary.write(writer)

    architecture = family.architecture if head is None else family.classifier
    notes = (*vocabulary.notes, *_notes(dimensions, head))
    return ConversionPlan(architecture, tensors, write_metadata, dimensions.n_ctx, notes)


def _first_row(source: ModelSourceDirectory, family: BertFamily) -> int:
    """The row of position 0 in the table of positions."""
    if not family.positions_after_padding:
        return 0
    return 1 + (_MPNET_PADDING if family is _MPNET else source.integer("pad_token_id", 1, minimum=0))


def _kind(architecture: str) -> str:
    return next(kind for kind in _KINDS if architecture.endswith(kind))


def _ignored(family: BertFamily, head: RankHead | None) -> tuple[str, ...]:
    """BERT's pooler is a part of its head; an embedding model needs neither."""
    if head is None:
        return (*_BUFFERS, "pooler.dense.", *family.ignored, *(f"{name}." for name in family.head))
    pooler = () if "pooler.dense" in family.head else ("pooler.dense.",)
    return (*_BUFFERS, *pooler, *family.ignored)


def _check_config(source: ModelSourceDirectory) -> None:
    source.refuse_unless("position_embedding_type", ("absolute",))
    source.refuse_unless("hidden_act", _GELU)
    source.refuse_unless("activation", _GELU)  # DistilBERT's name for it
    source.refuse_unless("relative_attention_num_buckets", (_MPNET_BUCKETS,))
    source.refuse_unless("embedding_size", (source.config.get("hidden_size"),))
    if source.config.get("is_decoder"):
        raise ModelFileError(f"{source.path / 'config.json'}: a BERT decoder (is_decoder) cannot be converted")


def _dimensions(source: ModelSourceDirectory, family: BertFamily, first_row: int) -> Dimensions:
    return Dimensions(
        **read_sizes(source),
        n_ctx=source.integer("max_position_embeddings") - first_row,
        norm_eps=source.number("layer_norm_eps", 1e-12),
        n_token_types=source.integer("type_vocab_size", 2) if family.has_token_types else 0,
    )


def _distilbert_dimensions(source: ModelSourceDirectory) -> Dimensions:
    """It has no token types; llama.cpp requires their number anyway, but not the tensor."""
    return Dimensions(
        n_vocab=source.integer("vocab_size"),
        n_embd=source.integer("dim"),
        n_layer=source.integer("n_layers", maximum=MAX_LAYERS),
        n_head=source.integer("n_heads"),
        n_ff=source.integer("hidden_dim"),
        n_ctx=source.integer("max_position_embeddings", 512),
        norm_eps=_DISTILBERT_EPS,
        n_token_types=1,
    )


def _shapes(dimensions: Dimensions, head: RankHead | None, *, has_token_types: bool) -> Shapes:
    n_embd, n_ff = dimensions.n_embd, dimensions.n_ff
    shapes: Shapes = {
        "token_embd.weight": (dimensions.n_vocab, n_embd),
        "position_embd.weight": (dimensions.n_ctx, n_embd),
    }
    if has_token_types:
        shapes["token_types.weight"] = (dimensions.n_token_types, n_embd)
    shapes |= dimensions.norm("token_embd_norm")
    for layer in range(dimensions.n_layer):
        at = f"blk.{layer}"
        for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
            shapes |= linear(f"{at}.{part}", n_embd, n_embd)
        shapes |= dimensions.norm(f"{at}.attn_output_norm")
        shapes |= linear(f"{at}.ffn_up", n_ff, n_embd) | linear(f"{at}.ffn_down", n_embd, n_ff)
        shapes |= dimensions.norm(f"{at}.layer_output_norm")
    return shapes | head.shapes(n_embd) if head is not None else shapes


def _notes(dimensions: Dimensions, head: RankHead | None) -> tuple[str, ...]:
    if head is None or dimensions.n_token_types < 2:
        return ()
    return (
        "this model was trained with a token type for each text of a pair: gguf-embed returns the original's scores; "
        "llama.cpp's own programs do not, because they use the first type for both texts",
    )
