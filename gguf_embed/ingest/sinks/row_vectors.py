"""The vectors of rows: checks of their width, and exact search without a database."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gguf_embed.errors import ConfigError
from gguf_embed.ingest.rows import Manifest
from gguf_embed.types import SPARSE

HIT_COLUMNS = ("id", "doc_id", "text", "metadata", "headings")

Row = TypeVar("Row")


def matrix_of(rows: pa.RecordBatch) -> NDArray[np.float32]:
    """float32[n_rows, n_dims], without a copy."""
    column = rows.column("embedding")
    flat = column.flatten().to_numpy(zero_copy_only=False)
    return np.ascontiguousarray(flat, np.float32).reshape(len(rows), column.type.list_size)


def weights_of(rows: pa.RecordBatch) -> list[dict[int, float]]:
    """The sparse vector of each row: token id → weight."""
    return weights_in(rows.column(SPARSE))


def weights_in(column: pa.Array) -> list[dict[int, float]]:
    """Of the type `SPARSE_TYPE`."""
    return [dict(zip(row["indices"], row["values"], strict=True)) for row in column.to_pylist()]


def matrices_in(column: pa.Array) -> list[NDArray[np.float32]]:
    """Of the type `multivector_type`: float32[n_tokens, n_dims] for each row."""
    return [np.asarray(row, np.float32) for row in column.to_pylist()]


def with_vectors(rows: pa.RecordBatch, matrix: NDArray[np.float32], schema: pa.Schema) -> pa.RecordBatch:
    """Rows of `schema`: the columns of `rows`, and the vectors."""
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(matrix.reshape(-1)), type=schema.field("embedding").type)
    return pa.record_batch([*rows.columns, vectors], schema=schema)


def require_width(rows: pa.RecordBatch, n_dims: int, name: str) -> None:
    """Raises `ConfigError` for vectors of another width than those that are stored."""
    kind = rows.schema.field("embedding").type if "embedding" in rows.schema.names else pa.null()
    width = kind.list_size if pa.types.is_fixed_size_list(kind) else 0
    if width != n_dims:
        raise ConfigError(
            f"these vectors have {width} dimensions, those of {name} have {n_dims}: use the model that it was made "
            "with, or another table"
        )


def require_kind(manifest: Manifest | None, kind: str, name: str) -> None:
    """Raises `ConfigError` if no vectors of this kind are stored."""
    if manifest is None or kind not in manifest.vectors:
        raise ConfigError(f"{name} has no {kind} vectors")


def require_query_width(vector: NDArray[np.float32], n_dims: int, name: str) -> None:
    """Raises `ConfigError` for a query of another width than the vectors that are stored."""
    if not n_dims:
        raise ConfigError(f"{name} has no dense vectors, which this search compares: ask the database itself")
    if vector.shape != (n_dims,):
        raise ConfigError(
            f"the query's vector has {vector.size} dimensions, those of {name} have {n_dims}: use the model that it "
            "was made with"
        )


def cosines(matrix: NDArray[np.float32], vector: NDArray[np.float32]) -> NDArray[np.float32]:
    """float32[n_rows]; 0 where a vector has length 0."""
    lengths = np.sqrt(np.einsum("ij,ij->i", matrix, matrix)) * np.linalg.norm(vector)
    scores = matrix @ vector
    found: NDArray[np.float32] = np.divide(scores, lengths, out=np.zeros_like(scores), where=lengths > 0)
    return found


class Nearest(Generic[Row]):
    """The nearest of rows that are shown to it batch by batch."""

    def __init__(self, vector: NDArray[np.float32], n: int) -> None:
        """`n` is at least 1."""
        self.found: list[tuple[float, Row]] = []  # the score and the row, nearest first
        self._vector = np.asarray(vector, np.float32)
        self._n = n

    def see(self, matrix: NDArray[np.float32], row: Callable[[int], Row]) -> None:
        """`row` is called for the few of the matrix that may be among the nearest."""
        scores = cosines(matrix, self._vector)
        self.found += [(float(scores[i]), row(int(i))) for i in self._candidates(scores)]
        self.found.sort(key=lambda found: -found[0])
        del self.found[self._n :]

    def _candidates(self, scores: NDArray[np.float32]) -> NDArray[np.intp]:
        indices = np.arange(len(scores))
        if len(self.found) >= self._n:
            indices = np.flatnonzero(scores > self.found[-1][0])
        if len(indices) > self._n:
            indices = indices[np.argpartition(-scores[indices], self._n - 1)[: self._n]]
        return indices


def row_at(rows: pa.RecordBatch, i: int) -> dict[str, str]:
    """What a hit shows of a row."""
    return {name: rows.column(name)[i].as_py() for name in HIT_COLUMNS}
