"""`RayEmbedder`: embeds the batches of a Ray Data pipeline."""

from __future__ import annotations

import os
import sys
from typing import Any

import numpy as np
import pyarrow as pa

from gguf_embed.embedder.embedder import Embedder
from gguf_embed.errors import ConfigError
from gguf_embed.ingest.pool.local import LocalPool

EMBEDDING, ERROR = "embedding", "error"


class RayEmbedder:
    """A class for `ray.data.Dataset.map_batches`, with `batch_format="pyarrow"` and an `ActorPoolStrategy`.

    Each actor loads the model once. A text that cannot be embedded fails alone: its `embedding` is null, and its
    `error` says why.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | None = None,
        *,
        text_column: str = "text",
        prompt: str | None = "document",
        dimensions: int | None = None,
        truncate: bool = False,
        threads: int | None = None,
    ) -> None:
        """`model`: as for `Embedder`; a file must be at the same path on all machines. `prompt`, `dimensions`,
        `truncate`: as for `Embedder.embed`. `threads`: None for the actor's `num_cpus`.

        Raises `ModelFileError`, `ModelLoadFailed`, `ConfigError` or `NotSupported`.
        """
        self._text_column = text_column
        embedder = Embedder(model, threads=_granted_cpus() if threads is None else threads)
        self._pool = LocalPool(embedder, prompt=prompt, dimensions=dimensions, truncate=truncate)
        self._type = pa.list_(pa.float32(), self._pool.facts.dimensions)

    def __call__(self, table: pa.Table) -> pa.Table:
        """The table with two more columns: `embedding`, FixedSizeList<float32, n_dims>, and `error`, string.

        Raises `ConfigError` if there is no column of texts, or if one of the two is there already.
        """
        self._check(table)
        texts = table.column(self._text_column).to_pylist()
        given = [index for index, text in enumerate(texts) if text is not None]
        embedded = self._pool.embed([texts[index] for index in given])
        errors: list[str | None] = ["is null"] * len(texts)
        vectors = np.zeros((len(texts), self._pool.facts.dimensions), np.float32)
        vectors[given] = embedded.vectors
        for number, index in enumerate(given):
            errors[index] = embedded.failures.get(number)
        failed = pa.array([error is not None for error in errors], pa.bool_())
        column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), type=self._type, mask=failed)
        return table.append_column(EMBEDDING, column).append_column(ERROR, pa.array(errors, pa.string()))

    def _check(self, table: pa.Table) -> None:
        names = table.column_names
        if self._text_column not in names:
            raise ConfigError(
                f"there is no column {self._text_column!r}: name one of {', '.join(names) or 'none'} with text_column="
            )
        kind = table.schema.field(self._text_column).type
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
            raise ConfigError(f"the column {self._text_column!r} is {kind}, and texts are needed: cast it to string")
        taken = [name for name in (EMBEDDING, ERROR) if name in names]
        if taken:
            raise ConfigError(f"the table already has a column {taken[0]!r}: rename or drop it before")


def _granted_cpus() -> int | None:
    """What Ray granted to this actor; None outside of Ray."""
    ray: Any = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return None
    granted = ray.get_runtime_context().get_assigned_resources().get("CPU")
    return None if granted is None else max(1, int(granted))
