"""Formats the vectors of each input, for every kind of output."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from gguf_embed.server.fields.head_outputs import split_rows, write_sparse
from gguf_embed.types import DENSE, JOINT, MULTIVECTOR, MUVERA, SCORES, SPARSE, Output
from gguf_embed.vectors import Rows
from gguf_embed.vectors.joint import JointOutput

Written = dict[str, object]
"""The vectors of one input, by their names in the reply."""

Encode = Callable[[Output], Sequence[object]]
"""Formats each row, as numbers or base64."""


def _write_rows(output: Output, encode: Encode) -> Iterable[Written]:
    return ({"embedding": row} for row in encode(output))


def _write_one_each(output: Output, encode: Encode) -> Iterable[Written]:
    """One row per text, and none for a text that failed."""
    assert isinstance(output, Rows), output.kind
    return ({"embedding": own[0]} if own else {} for own in split_rows(output, encode(output)))


def _write_multivectors(output: Output, encode: Encode) -> Iterable[Written]:
    assert isinstance(output, Rows), output.kind
    return ({"embedding": own} for own in split_rows(output, encode(output)))


def _write_sparse(output: Output, encode: Encode) -> Iterable[Written]:
    return ({"sparse_embedding": vector} for vector in write_sparse(output))


def _write_joint(output: Output, encode: Encode) -> Iterable[Written]:
    """All kinds of a text in one item. `embedding` is the dense vector; multi-vectors and MUVERA have own names."""
    assert isinstance(output, JointOutput), output.kind
    items: list[Written] = [{} for _ in range(len(output))]
    for kind, part in output.by_kind.items():
        write = _write_one_each if kind == DENSE else WRITERS[kind]
        for item, written in zip(items, write(part, encode), strict=True):
            named = {kind: written.pop("embedding")} if kind in _OWN_NAMES and written else {}
            item |= written | named
    return items


_OWN_NAMES = (MULTIVECTOR, MUVERA)

WRITERS: dict[str, Callable[[Output, Encode], Iterable[Written]]] = {
    DENSE: _write_rows,
    SCORES: _write_rows,
    MULTIVECTOR: _write_multivectors,
    MUVERA: _write_one_each,
    SPARSE: _write_sparse,
    JOINT: _write_joint,
}
"""The function that formats a text's vectors, for each kind of output."""
