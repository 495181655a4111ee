"""Rows as points of Qdrant: their ids, payloads and hits, for the server and the engine in process."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from uuid import UUID, uuid5

import orjson
import pyarrow as pa

from gguf_embed.ingest.rows import METADATA_KEYS, STORED, Hit
from gguf_embed.ingest.sinks.database import lists, stored_batch

NAMESPACE = UUID("8f0c6a52-3b0e-5d0e-9a6e-2f8f7f6f1c11")
"""Never to be changed: it is in the ids of all points that were ever stored."""


def point_ids(ids: Sequence[str]) -> list[str]:
    """Qdrant takes numbers and UUIDs only."""
    return [str(uuid5(NAMESPACE, id_)) for id_ in ids]


def payloads(rows: pa.RecordBatch) -> list[dict[str, Any]]:
    """The columns of a row, with the metadata as an object, for filters."""
    columns = lists(rows)
    columns["metadata"] = [orjson.loads(text) for text in columns["metadata"]]
    names = ("id", *METADATA_KEYS)
    return [dict(zip(names, row, strict=True)) for row in zip(*(columns[name] for name in names), strict=True)]


def hit(score: float, payload: Mapping[str, Any]) -> Hit:
    metadata = orjson.dumps(payload["metadata"]).decode()
    return Hit(payload["id"], score, payload["doc_id"], payload["text"], metadata, payload["headings"])


def stored_points(points: Iterable[Any]) -> pa.RecordBatch:
    return stored_batch([[point.payload[name] for name in STORED] for point in points])
