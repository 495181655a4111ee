"""The contract of what part files look like."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

LiveRows = Callable[[pa.Array], NDArray[np.bool_] | None]
"""From the ids of consecutive rows to those that still count; None: all."""

Source = tuple[Sequence[Path], LiveRows | None]
"""The files of a part that is merged; None: all of its rows still count."""


class PartFormat(Protocol):
    """How the rows of a part are kept: in one file for each suffix."""

    suffixes: tuple[str, ...]

    def write(self, paths: Sequence[Path], schema: pa.Schema, batches: Iterable[pa.RecordBatch], n_rows: int) -> None:
        """`schema` has the manifest as metadata. The files are there, and on the disk, when this returns."""
        ...

    def read(self, paths: Sequence[Path], schema: pa.Schema, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """All rows in order; `columns` are in the schema's order, and with "embedding" they are all of them."""
        ...

    def merge(
        self,
        paths: Sequence[Path],
        schema: pa.Schema,
        parts: Sequence[Source],
        n_rows: int,
    ) -> None:
        """Write the rows of `parts` that still count, `n_rows` in all."""
        ...
