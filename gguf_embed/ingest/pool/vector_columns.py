"""Sparse vectors and multi-vectors as Arrow columns of rows."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from gguf_embed.ingest.rows import SPARSE_TYPE, multivector_type
from gguf_embed.types import MULTIVECTOR, SPARSE, Output
from gguf_embed.vectors import Rows
from gguf_embed.vectors.sparse import SparseRows


def vector_columns(by_kind: Mapping[str, Output], n_dims: int) -> dict[str, pa.Array]:
    """The columns "sparse" and "multivector", as far as these kinds are there. A text that failed has empty ones."""
    columns = {}
    sparse, multivectors = by_kind.get(SPARSE), by_kind.get(MULTIVECTOR)
    if isinstance(sparse, SparseRows):
        columns[SPARSE] = sparse_column(sparse)
    if isinstance(multivectors, Rows):
        columns[MULTIVECTOR] = multivector_column(multivectors, n_dims)
    return columns


def sparse_column(rows: SparseRows) -> pa.Array:
    offsets = pa.array(np.asarray(rows.offsets, np.int32))
    lists = [pa.ListArray.from_arrays(offsets, pa.array(values)) for values in (rows.indices, rows.weights)]
    return pa.StructArray.from_arrays(lists, fields=list(SPARSE_TYPE))


def multivector_column(rows: Rows, n_dims: int) -> pa.Array:
    """From float32[n_rows, n_dims] with the rows of each text."""
    kind = multivector_type(n_dims)
    flat = pa.array(np.ascontiguousarray(rows.matrix, np.float32).reshape(-1))
    vectors = pa.FixedSizeListArray.from_arrays(flat, type=kind.value_type)
    return pa.ListArray.from_arrays(pa.array(np.asarray(rows.offsets, np.int32)), vectors, type=kind)
