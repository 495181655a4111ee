"""Parses requests for multi-vectors and sparse vectors, and formats them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from gguf_embed.errors import InvalidRequest
from gguf_embed.server.fields.field import Body, Flag, Json, Shaped, Whole, contradiction
from gguf_embed.server.fields.muvera import MUVERA, parse_settings
from gguf_embed.server.fields.output_types import IN_UNIT_RANGE, OutputType
from gguf_embed.server.http.values import JsonObject, describe
from gguf_embed.types import DENSE, JOINT, MULTIVECTOR, SPARSE, Muvera, Output, OutputSpec
from gguf_embed.vectors import Rows
from gguf_embed.vectors.sparse import SparseRows

RETURN_MULTIVECTOR = Flag(
    "return_multivector",
    "One vector per token, projected and of length 1, from a model with a ColBERT head.",
    also=("return_colbert_vecs",),
    default="`false`",
)
RETURN_SPARSE = Flag(
    "return_sparse",
    "Also a sparse vector, from a model with such a head (SPLADE, BGE-M3).",
    also=("return_sparse_embedding",),
    default="`false`",
)
_WORDS = {"dense": DENSE, "sparse": SPARSE, "multivector": MULTIVECTOR, "colbert": MULTIVECTOR}
OUTPUT = Shaped(
    "output",
    "Exactly these kinds of vectors, computed in one pass.",
    shape={"type": "array", "items": {"type": "string", "enum": list(_WORDS)}, "minItems": 1},
)
POOL_FACTOR = Whole(
    "pool_factor",
    "Multi-vectors of documents get about so many times fewer rows: similar ones become one.",
    default="`1`",
    minimum=1,
    maximum=64,
)
HEAD_FIELDS = Body(
    "HeadFields",
    (RETURN_MULTIVECTOR, RETURN_SPARSE, OUTPUT, POOL_FACTOR, MUVERA),
    "Vectors for late interaction and sparse vectors.",
    see="Multi-vectors and sparse vectors",
)
NAMES = frozenset(name for field in HEAD_FIELDS.fields for name in field.names)

SCHEMAS: dict[str, Json] = {
    "SparseVector": {
        "type": "object",
        "description": "Token ids in ascending order, and their weights, all above 0.",
        "required": ["indices", "values"],
        "properties": {
            "indices": {"type": "array", "items": {"type": "integer"}},
            "values": {"type": "array", "items": {"type": "number"}},
        },
    }
}


def parse_head_outputs(body: JsonObject, pooled: OutputSpec | None) -> OutputSpec | None:
    """The output that the request asks for; `pooled`, that of its `pooling`, if it has none of these fields.

    Joint output without the dense kind means: beside the model's dense vector, if it has one. Raises `InvalidRequest`.
    """
    if NAMES.isdisjoint(body):
        return pooled
    listed = _parse_kinds(body)
    flags = {MULTIVECTOR: RETURN_MULTIVECTOR.read(body), SPARSE: RETURN_SPARSE.read(body)}
    wanted = [kind for kind, value in flags.items() if value]
    for kind, value in flags.items():
        if listed and value is not None and value is not (kind in listed):
            raise contradiction(OUTPUT.name, f"return_{kind}")
    kinds = listed or wanted
    if not kinds or kinds == [DENSE]:
        return pooled
    pooling = pooled.pooling if pooled is not None else None
    if kinds in ([MULTIVECTOR], [SPARSE]) and (listed or kinds == [MULTIVECTOR]):
        if pooling is not None:
            raise InvalidRequest(
                f'"pooling" gives one vector per text, and the request asks for {kinds[0]} alone', "pooling"
            )
        return OutputSpec(kinds[0])
    if pooled is not None and pooled.pooling is None:
        raise InvalidRequest('"pooling": "none" gives no dense vector to return beside the others', "pooling")
    return OutputSpec(JOINT, pooling, parts=tuple(kinds))


def parse_pool_factor(body: JsonObject, output: OutputSpec | None) -> int:
    """1 if it is absent. Raises `InvalidRequest` for a request without multi-vectors."""
    factor = POOL_FACTOR.read(body) or 1
    if factor > 1:
        _require_multivectors(output, POOL_FACTOR.name, "makes multi-vectors smaller")
    return factor


def parse_muvera(body: JsonObject, output: OutputSpec | None, types: Sequence[OutputType]) -> Muvera | None:
    """None if it is absent. Raises `InvalidRequest` for a request without multi-vectors, or for numbers up to 1."""
    settings = parse_settings(body)
    if settings is None:
        return None
    _require_multivectors(output, MUVERA.name, "makes one vector of a multi-vector")
    small = next((each.name for each in types if each.dtype in IN_UNIT_RANGE), None)
    if small is not None:
        raise InvalidRequest(
            f'"{small}" only represents numbers from -1 to 1, and "{MUVERA.name}" gives larger ones: ask for float, '
            "binary or ubinary",
            "output_dtype",
        )
    return settings


def _require_multivectors(output: OutputSpec | None, name: str, what: str) -> None:
    """Raises `InvalidRequest` if the request has the field `name` and asks for no multi-vectors."""
    if output is None or MULTIVECTOR not in (output.parts or (output.kind,)):
        raise InvalidRequest(f'"{name}" {what}: ask for them with "{RETURN_MULTIVECTOR.name}"', name)


def _parse_kinds(body: JsonObject) -> list[str]:
    """The kinds of `output`, each once, in a fixed order; empty if it is absent."""
    value = body.get(OUTPUT.name)
    if value is None:
        return []
    words = value if isinstance(value, list) else [value]
    if not words or not all(isinstance(word, str) and word in _WORDS for word in words):
        names = ", ".join(f'"{word}"' for word in _WORDS)
        raise InvalidRequest(f'"{OUTPUT.name}" must be an array of {names}, found {describe(value)}', OUTPUT.name)
    found = {_WORDS[str(word)] for word in words}
    return [kind for kind in (DENSE, SPARSE, MULTIVECTOR) if kind in found]


def write_sparse(output: Output) -> list[dict[str, object]]:
    """`{"indices": […], "values": […]}` for each text."""
    assert isinstance(output, SparseRows), output.kind
    texts = (output.text(index) for index in range(len(output)))
    return [{"indices": indices, "values": weights} for indices, weights in texts]


def write_sparse_pairs(output: Output) -> list[list[dict[str, object]]]:
    """`[{"index": …, "value": …}, …]` for each text, as TEI's `/embed_sparse`."""
    assert isinstance(output, SparseRows), output.kind
    texts = (output.text(index) for index in range(len(output)))
    return [
        [{"index": index, "value": value} for index, value in zip(indices.tolist(), weights, strict=True)]
        for indices, weights in texts
    ]


def split_rows(rows: Rows, written: Sequence[object]) -> list[Sequence[object]]:
    """What was written for all rows, per text."""
    return [written[begin:end] for begin, end in itertools.pairwise(rows.offsets)]
