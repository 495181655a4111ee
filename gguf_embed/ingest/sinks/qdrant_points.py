"""Rows as points of Qdrant: their ids, payloads and hits, for the server and the engine in process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any
from uuid import UUID, uuid5

import orjson
import pyarrow as pa

from gguf_embed.ingest.rows import METADATA_KEYS, STORED, Hit, Manifest
from gguf_embed.ingest.sinks.database import lists, stored_batch
from gguf_embed.ingest.sinks.row_vectors import matrix_of
from gguf_embed.types import DENSE, MULTIVECTOR, SPARSE

NAMESPACE = UUID("8f0c6a52-3b0e-5d0e-9a6e-2f8f7f6f1c11")
"""Never to be changed: it is in the ids of all points that were ever stored."""


MAX_REQUEST_BYTES = 4 << 20
"""As Arrow; JSON has up to five times as many, and a server takes 32 MiB."""


def point_ids(ids: Sequence[str]) -> list[str]:
    """Qdrant takes numbers and UUIDs only."""
    return [str(uuid5(NAMESPACE, id_)) for id_ in ids]


def payloads(rows: pa.RecordBatch) -> list[dict[str, Any]]:
    """The columns of a row, with the metadata as an object, for filters."""
    columns = lists(rows)
    columns["metadata"] = [orjson.loads(text) for text in columns["metadata"]]
    names = ("id", *METADATA_KEYS)
    return [dict(zip(names, row, strict=True)) for row in zip(*(columns[name] for name in names), strict=True)]


def is_plain(manifest: Manifest) -> bool:
    """Whether each point has one dense vector, which then has no name."""
    return manifest.vectors == (DENSE,)


def named_vectors(rows: pa.RecordBatch, sparse_vector: Callable[..., Any]) -> dict[str, list[Any]]:
    """Each kind of vectors by its name in Qdrant, in the order of the rows. `sparse_vector`: the client's own class."""
    found: dict[str, list[Any]] = {}
    if "embedding" in rows.schema.names:
        found[DENSE] = matrix_of(rows).tolist()
    if SPARSE in rows.schema.names:
        found[SPARSE] = [sparse_vector(**vector) for vector in rows.column(SPARSE).to_pylist()]
    if MULTIVECTOR in rows.schema.names:
        found[MULTIVECTOR] = rows.column(MULTIVECTOR).to_pylist()
    return found


def indices_and_values(weights: Mapping[int, float]) -> dict[str, list[Any]]:
    """A sparse vector, as the client's classes take it."""
    return {"indices": list(weights), "values": list(weights.values())}


def n_per_request(rows: pa.RecordBatch, most: int) -> int:
    """How many rows at once: multi-vectors are some hundred times as large as dense vectors."""
    n_bytes: int = rows.nbytes
    return max(1, min(most, len(rows) * MAX_REQUEST_BYTES // max(1, n_bytes)))


def hit(score: float, payload: Mapping[str, Any]) -> Hit:
    metadata = orjson.dumps(payload["metadata"]).decode()
    return Hit(payload["id"], score, payload["doc_id"], payload["text"], metadata, payload["headings"])


def stored_points(points: Iterable[Any]) -> pa.RecordBatch:
    return stored_batch([[point.payload[name] for name in STORED] for point in points])
