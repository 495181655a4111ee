"""The heads of a model that turn its token rows into multi-vectors (ColBERT) and sparse vectors (BGE-M3, SPLADE).

They are arrays of numbers in the metadata, because llama.cpp refuses a file with tensors that it does not know. The
third kind, of listwise rerankers, is in `listwise_head.py`.

    gguf-embed.colbert.weight             float32[n_out * n_embd]   row by row; absent: the model's rows are used
    gguf-embed.colbert.bias               float32[n_out]            optional
    gguf-embed.colbert.dimensions         uint32                    n_out
    gguf-embed.colbert.query_prefix       int32[]                   ids after the opening tokens of a query
    gguf-embed.colbert.document_prefix    int32[]                   the same of a document
    gguf-embed.colbert.query_length       uint32                    limit in tokens
    gguf-embed.colbert.document_length    uint32                    limit in tokens
    gguf-embed.colbert.expansion_token    uint32                    fills short queries; absent: nothing does
    gguf-embed.colbert.expansion_length   uint32                    up to so many tokens
    gguf-embed.colbert.expansion_attended bool                      whether other tokens attend to these
    gguf-embed.colbert.skipped            int32[]                   tokens of documents that get no vector
    gguf-embed.colbert.skips_first        bool                      neither does the first token of any text

    gguf-embed.sparse.kind                string                    "lexical" (BGE-M3), "mlm" (SPLADE) or "bm25"
    gguf-embed.sparse.weight              float32[n_embd], or float32[n_embd * n_embd] of the mlm head's dense layer
    gguf-embed.sparse.bias                float32[1] or float32[n_embd]
    gguf-embed.sparse.norm.weight, .bias  float32[n_embd]           mlm: the layer norm after the dense layer
    gguf-embed.sparse.norm.epsilon        float32
    gguf-embed.sparse.activation          string                    mlm: "gelu" or "relu"
    gguf-embed.sparse.output_bias         float32[n_vocab]          mlm: of the decoder, which is the token table
    gguf-embed.sparse.n_log               uint32                    mlm: how often log(1 + x) is taken, 1 or 2
    gguf-embed.sparse.skipped             int32[]                   tokens that get no weight
    gguf-embed.sparse.query_weights       float32[n_vocab]          weights of a query's tokens, without the network

The files of CrispEmbed have tensors `colbert_linear`, `sparse_linear`, `mlm_transform`, `mlm_ln`, `mlm_bias` instead,
and the keys `bert.colbert_dim`, `colbert.query_length`, `colbert.query_prefix` and `colbert.document_prefix`, the last
two with the text of a token.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from gguf_embed.gguf_file import lfm2_colbert
from gguf_embed.gguf_file.bm25_format import FACTORS
from gguf_embed.gguf_file.dequantize import dequantized
from gguf_embed.gguf_file.head_source import MAX_DIMENSIONS, MAX_LENGTH, HeadSource, Numbers, Projection
from gguf_embed.gguf_file.header import GgufHeader
from gguf_embed.gguf_file.lfm2_colbert import is_lfm2_colbert
from gguf_embed.gguf_file.listwise_head import ListwiseHead, has_listwise_head, read_listwise_head
from gguf_embed.types import FloatMatrix

COLBERT, SPARSE = "gguf-embed.colbert.", "gguf-embed.sparse."
LEXICAL, MLM, BM25 = "lexical", "mlm", "bm25"

TENSORS = frozenset(
    f"{name}.{part}"
    for name in ("colbert_linear", "sparse_linear", "mlm_transform", "mlm_ln")
    for part in ("weight", "bias")
) | {"mlm_bias"}
"""CrispEmbed's names."""

_ARRAYS = (
    *(COLBERT + name for name in ("weight", "bias", "query_prefix", "document_prefix", "skipped")),
    *(
        SPARSE + name
        for name in ("weight", "bias", "norm.weight", "norm.bias", "output_bias", "skipped", "query_weights")
    ),
)
_DEFAULT_EPSILON = 1e-12


@dataclass(frozen=True, slots=True, eq=False)
class LateInteraction:
    """How a ColBERT model reads queries and documents, and the layer after it."""

    projection: Projection | None  # None: the model's own rows
    n_dims: int
    query_prefix: tuple[int, ...] = ()
    document_prefix: tuple[int, ...] = ()
    query_length: int | None = None  # limit in tokens; None: the model's
    document_length: int | None = None
    expansion_token: int | None = None  # fills short queries; None: nothing does
    expansion_length: int = 0  # up to so many tokens
    expansion_attended: bool = False
    skipped: frozenset[int] = frozenset()  # tokens of documents that get no vector
    skips_first: bool = False  # neither does the first token of any text

    @property
    def n_inputs(self) -> int | None:
        """Numbers per row that the projection reads; None: there is none."""
        return None if self.projection is None else self.projection.weight.shape[1]


@dataclass(frozen=True, slots=True, eq=False)
class MaskedLanguageHead:
    """The head with which a model predicts masked tokens: a dense layer, a norm, and the token table as decoder."""

    dense: Projection
    activation: str  # "gelu" or "relu"
    norm_weight: Numbers
    norm_bias: Numbers
    norm_epsilon: float
    decoder: FloatMatrix  # float32[n_vocab, n_embd]
    output_bias: Numbers
    n_log: int


@dataclass(frozen=True, slots=True)
class Bm25:
    """How often a document's word occurs, as its weight."""

    k: float  # how soon further occurrences count no more
    b: float  # how much a document's length counts
    average_length: float  # of documents, in words


@dataclass(frozen=True, slots=True, eq=False)
class SparseHead:
    """Weights of vocabulary entries for a text."""

    n_vocab: int
    lexical: Projection | None = None  # one number per token: the weight of its own entry
    mlm: MaskedLanguageHead | None = None  # a number per entry for each token: the largest is the entry's weight
    bm25: Bm25 | None = None  # weights by counting, without the network
    query_weights: Numbers | None = None  # float32[n_vocab]: queries are weighed without the network
    skipped: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True, eq=False)
class TokenHeads:
    """All heads of a file."""

    late: LateInteraction | None = None
    sparse: SparseHead | None = None
    listwise: ListwiseHead | None = None


def expands_unattended(header: GgufHeader) -> bool:
    """Whether short queries are filled with tokens that no token attends to."""
    expands = header.get(COLBERT + "expansion_token", int) is not None
    return expands and not header.get(COLBERT + "expansion_attended", bool)


def has_colbert_head(header: GgufHeader) -> bool:
    has_own = COLBERT + "dimensions" in header.metadata or "colbert_linear.weight" in header.tensors
    return has_own or is_lfm2_colbert(header)


def has_sparse_head(header: GgufHeader) -> bool:
    names = header.tensors
    return SPARSE + "kind" in header.metadata or "sparse_linear.weight" in names or "mlm_transform.weight" in names


def has_token_heads(header: GgufHeader) -> bool:
    return has_colbert_head(header) or has_sparse_head(header) or has_listwise_head(header)


def heads_bytes(header: GgufHeader) -> int:
    """An estimate of the memory that the heads take, the decoder of a masked language head most of all."""
    if not has_sparse_head(header) or header.get(SPARSE + "kind", str) in (LEXICAL, BM25):
        return 0
    table = header.tensors.get("token_embd.weight")
    return 4 * prod(table.shape) if table is not None and "sparse_linear.weight" not in header.tensors else 0


def read_token_heads(header: GgufHeader) -> TokenHeads | None:
    """The heads of a file; None if it has none. Raises `ModelFileError` for numbers that do not fit the model."""
    if not has_token_heads(header):
        return None
    source = HeadSource(header, _ARRAYS)
    return TokenHeads(
        _late_of(source) if has_colbert_head(header) else None,
        _sparse(source) if has_sparse_head(header) else None,
        read_listwise_head(header) if has_listwise_head(header) else None,
    )


def _late_of(source: HeadSource) -> LateInteraction:
    return _late_of_lfm2(source) if is_lfm2_colbert(source.header) else _late(source)


def _late_of_lfm2(source: HeadSource) -> LateInteraction:
    ids = lfm2_colbert.ids_of(source.header)
    query, document = (ids.pop(text, None) for text in (lfm2_colbert.QUERY_PREFIX, lfm2_colbert.DOCUMENT_PREFIX))
    if query is None or document is None:
        raise source.error("is an LFM2-ColBERT, but its vocabulary has no tokens '[Q] ' and '[D] '")
    return LateInteraction(
        None,
        lfm2_colbert.n_dimensions(source, MAX_DIMENSIONS),
        query_prefix=(query,),
        document_prefix=(document,),
        query_length=lfm2_colbert.QUERY_LENGTH,
        document_length=lfm2_colbert.DOCUMENT_LENGTH,
        skipped=frozenset(ids.values()),
    )


def _late(source: HeadSource) -> LateInteraction:
    header, tensor = source.header, source.header.tensors.get("colbert_linear.weight")
    n_dims = source.size(COLBERT + "dimensions", MAX_DIMENSIONS) or source.size("bert.colbert_dim", MAX_DIMENSIONS) or 0
    if not n_dims and tensor is not None and len(tensor.shape) == 2:
        n_dims = tensor.shape[1]
    projection = None
    if tensor is not None or COLBERT + "weight" in source.arrays:
        weight = source.numbers(COLBERT + "weight", n_dims * source.n_embd, "colbert_linear.weight")
        bias = source.optional(COLBERT + "bias", n_dims, "colbert_linear.bias")
        projection = Projection(weight.reshape(n_dims, source.n_embd), bias)
    query_length = source.size(COLBERT + "query_length", MAX_LENGTH) or source.size("colbert.query_length", MAX_LENGTH)
    expansion = header.get(COLBERT + "expansion_token", int)
    if expansion is not None:
        source.check_id(COLBERT + "expansion_token", expansion)
    return LateInteraction(
        projection,
        n_dims,
        query_prefix=source.ids(COLBERT + "query_prefix") or source.id_of_text("colbert.query_prefix"),
        document_prefix=source.ids(COLBERT + "document_prefix") or source.id_of_text("colbert.document_prefix"),
        query_length=query_length,
        document_length=source.size(COLBERT + "document_length", MAX_LENGTH),
        expansion_token=expansion,
        expansion_length=source.size(COLBERT + "expansion_length", MAX_LENGTH) or query_length or 0,
        expansion_attended=bool(header.get(COLBERT + "expansion_attended", bool)),
        skipped=frozenset(source.ids(COLBERT + "skipped")),
        skips_first=bool(header.get(COLBERT + "skips_first", bool)),
    )


def _sparse(source: HeadSource) -> SparseHead:
    n_embd, n_vocab = source.n_embd, source.n_vocab
    query_weights = source.optional(SPARSE + "query_weights", n_vocab)
    skipped = frozenset(source.ids(SPARSE + "skipped")) or _special_ids(source)
    kind = source.header.get(SPARSE + "kind", str) or (
        LEXICAL if "sparse_linear.weight" in source.header.tensors else MLM
    )
    if kind == LEXICAL:
        weight = source.numbers(SPARSE + "weight", n_embd, "sparse_linear.weight").reshape(1, n_embd)
        bias = source.optional(SPARSE + "bias", 1, "sparse_linear.bias")
        return SparseHead(n_vocab, lexical=Projection(weight, bias), query_weights=query_weights, skipped=skipped)
    if kind == BM25:
        return SparseHead(n_vocab, bm25=_bm25(source))
    if kind != MLM:
        raise source.error(f"{SPARSE}kind is {kind!r}, expected {LEXICAL!r}, {MLM!r} or {BM25!r}")
    return SparseHead(n_vocab, mlm=_mlm(source), query_weights=query_weights, skipped=frozenset())


def _bm25(source: HeadSource) -> Bm25:
    k, b, average_length = map(float, source.numbers(FACTORS, 3, FACTORS))
    if k < 0 or not 0 <= b <= 1 or average_length <= 0:
        raise source.error(f"{FACTORS} are k {k:g}, b {b:g} and an average length of {average_length:g}")
    return Bm25(k, b, average_length)


def _special_ids(source: HeadSource) -> frozenset[int]:
    """Of a file that lists none: the ids of its special tokens."""
    keys = ("bos", "eos", "seperator", "padding", "unknown", "cls")
    found = (source.header.get(f"tokenizer.ggml.{key}_token_id", int) for key in keys)
    return frozenset(token for token in found if token is not None)


def _epsilon(source: HeadSource) -> float:
    value = source.header.get(SPARSE + "norm.epsilon", float)
    if value is not None and not 0 <= value < 1:
        raise source.error(f"{SPARSE}norm.epsilon is {value}, expected 0 to 1")
    return value or _DEFAULT_EPSILON


def _mlm(source: HeadSource) -> MaskedLanguageHead:
    n_embd, n_vocab, header = source.n_embd, source.n_vocab, source.header
    table = header.tensors.get("token_embd.weight")
    if table is None or table.shape != (n_embd, n_vocab):
        raise source.error(f"token_embd.weight is not a table of {n_vocab} rows of {n_embd} numbers")
    activation = header.get(SPARSE + "activation", str) or "gelu"
    if activation not in ("gelu", "relu"):
        raise source.error(f"{SPARSE}activation is {activation!r}, expected 'gelu' or 'relu'")
    weight = source.numbers(SPARSE + "weight", n_embd * n_embd, "mlm_transform.weight")
    return MaskedLanguageHead(
        dense=Projection(weight.reshape(n_embd, n_embd), source.numbers(SPARSE + "bias", n_embd, "mlm_transform.bias")),
        activation=activation,
        norm_weight=source.numbers(SPARSE + "norm.weight", n_embd, "mlm_ln.weight"),
        norm_bias=source.numbers(SPARSE + "norm.bias", n_embd, "mlm_ln.bias"),
        norm_epsilon=_epsilon(source),
        decoder=dequantized(header, table),
        output_bias=source.numbers(SPARSE + "output_bias", n_vocab, "mlm_bias"),
        n_log=source.size(SPARSE + "n_log", 2) or 1,
    )
