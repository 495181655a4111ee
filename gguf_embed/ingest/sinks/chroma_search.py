"""The rows of a collection of Chroma that are nearest to a vector."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Set
from itertools import chain
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
        hits = _with_others(collection, vector, hits, n)
    return hits


def _with_others(collection: Any, vector: NDArray[np.float32], hits: list[Hit], n: int) -> list[Hit]:
    """The texts of rows are read only if the rows are among the nearest."""
    known = {hit.id: hit for hit in hits}
    scores = chain(((hit.score, hit.id) for hit in hits), _other_scores(collection, vector, known.keys()))
    best = heapq.nlargest(n, scores)
    missing = {id_: score for score, id_ in best if id_ not in known}
    for ids in _parts(list(missing)):
        found = collection.get(ids=ids, include=["documents", "metadatas"])
        for id_, text, metadata in zip(found["ids"], found["documents"], found["metadatas"], strict=True):
            known[id_] = _hit(id_, missing[id_], text, metadata)
    return [known[id_] for _, id_ in best if id_ in known]  # else the row was deleted meanwhile


def _other_scores(collection: Any, vector: NDArray[np.float32], known: Set[str]) -> Iterator[tuple[float, str]]:
    """The cosines and ids of the rows with other ids, in any order."""
    for ids in _parts([id_ for id_ in collection.get(include=[])["ids"] if id_ not in known]):
        found = collection.get(ids=ids, include=["embeddings"])
        matrix = np.asarray(found["embeddings"], np.float32)
        lengths = np.linalg.norm(matrix, axis=1) * np.linalg.norm(vector)
        cosines = matrix @ vector / np.where(lengths == 0, 1, lengths)
        yield from zip(cosines.tolist(), found["ids"], strict=True)


def _parts(ids: list[str]) -> Iterator[list[str]]:
    return (ids[first : first + N_FETCHED] for first in range(0, len(ids), N_FETCHED))


def _hit(id_: str, score: float, text: str, metadata: dict[str, Any]) -> Hit:
    return Hit(id_, score, metadata["doc_id"], text, metadata["metadata"], metadata["headings"])
