"""The rows of a collection of Chroma that are nearest to a vector."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gguf_embed.ingest.rows import Hit

N_FETCHED = 1_000


def nearest(collection: Any, vector: NDArray[np.float32], n: int) -> list[Hit]:
    """The `n` nearest rows to float32[n_dims], or all, nearest first.

    Chroma's index is a graph. After rows were deleted, or after Chroma has built it again from its log, which it does
    differently each time, no link may lead to a row. If rows are missing, their vectors are compared without the index.
    """
    found = collection.query(query_embeddings=vector[None], n_results=n)
    columns = (found[key][0] for key in ("ids", "distances", "documents", "metadatas"))
    hits = [_hit(id_, 1 - distance, text, metadata) for id_, distance, text, metadata in zip(*columns, strict=True)]
    if len(hits) < n and len(hits) < collection.count():
        hits += _others(collection, vector, {hit.id for hit in hits})
        hits = sorted(hits, key=lambda hit: -hit.score)[:n]
    return hits


def _others(collection: Any, vector: NDArray[np.float32], known: set[str]) -> Iterator[Hit]:
    """The rows with other ids, in any order."""
    ids = [id_ for id_ in collection.get(include=[])["ids"] if id_ not in known]
    for first in range(0, len(ids), N_FETCHED):
        found = collection.get(ids=ids[first : first + N_FETCHED], include=["embeddings", "documents", "metadatas"])
        matrix = np.asarray(found["embeddings"], np.float32)
        lengths = np.linalg.norm(matrix, axis=1) * np.linalg.norm(vector)
        cosines = matrix @ vector / np.where(lengths == 0, 1, lengths)
        rows = zip(found["ids"], cosines.tolist(), found["documents"], found["metadatas"], strict=True)
        yield from (_hit(*row) for row in rows)


def _hit(id_: str, score: float, text: str, metadata: dict[str, Any]) -> Hit:
    return Hit(id_, score, metadata["doc_id"], text, metadata["metadata"], metadata["headings"])
