"""The contract of sinks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gguf_embed.ingest.rows import Hit, Manifest

IndexChoice = Literal["after", "keep", "none"]
"""What becomes of the vector index: built after the load, left as it is, or none."""


class Sink(Protocol):
    """A place for rows of `row_schema`, with one manifest. One thread at a time; methods raise `EmbedError` only."""

    name: str  # for people: "LanceDB table docs in /data/lance"

    def manifest(self) -> Manifest | None:
        """What is stored now; None: nothing yet.

        Raises `EmbedError` for a table, folder or collection of that name that no job has made.
        """
        ...

    def create(self, manifest: Manifest) -> None:
        """Make the table for vectors of `manifest.dimensions`, and store the manifest."""
        ...

    def replace_manifest(self, manifest: Manifest) -> None:
        """Store another one, for the same rows."""
        ...

    def prepare(self, index: IndexChoice) -> str | None:
        """Called before the first write. A line for the user if a vector index makes writing slow; else None."""
        ...

    def write(self, rows: pa.RecordBatch) -> None:
        """Insert the rows, and replace those with the same id. Ids in one batch are distinct."""
        ...

    def delete(self, ids: Sequence[str]) -> None:
        """Ids that are not stored are ignored."""
        ...

    def flush(self) -> None:
        """When this returns, all earlier writes and deletions survive a crash. Only then does the job note them."""
        ...

    def finish(self, index: IndexChoice) -> None:
        """Called once after a run: clean up what writing left, build the index."""
        ...

    def stored(self) -> Iterator[pa.RecordBatch]:
        """All rows, with the columns `STORED`."""
        ...

    def count(self) -> int: ...

    def search(self, vector: NDArray[np.float32], n: int) -> list[Hit]:
        """The `n` nearest rows to float32[n_dims], nearest first."""
        ...

    def close(self) -> None:
        """Safe to call twice."""
        ...


@runtime_checkable
class HasTables(Protocol):
    """A sink in a place that has several tables."""

    def tables(self) -> list[str]:
        """Those of jobs, by name."""
        ...


@runtime_checkable
class HasSparseSearch(Protocol):
    """A sink that finds rows by their sparse vectors."""

    def search_sparse(self, weights: Mapping[int, float], n: int) -> list[Hit]:
        """The `n` rows whose dot product with these weights is largest, and above 0, largest first.

        Raises `ConfigError` if no sparse vectors are stored.
        """
        ...


@runtime_checkable
class HasMultivectorSearch(Protocol):
    """A sink that finds rows by their multi-vectors."""

    def search_multivector(self, vectors: NDArray[np.float32], n: int) -> list[Hit]:
        """The `n` rows with the largest MaxSim to float32[n_tokens, n_dims], largest first.

        Raises `ConfigError` if no multi-vectors are stored.
        """
        ...
