"""Where tests of Chroma write, and what is there."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from gguf_embed.ingest.rows import METADATA_KEYS, row_schema
from gguf_embed.ingest.sinks.chroma import close_client
from tests.ingest.sinks.contract import Place
from tests.ingest.sinks.sample_rows import N_DIMS

COLUMNS = set(METADATA_KEYS) - {"text"}


def folder_place(chromadb, folder: Path) -> Place:
    settings = chromadb.config.Settings(anonymized_telemetry=False)

    def read() -> pa.Table:
        client = chromadb.PersistentClient(str(folder), settings=settings)
        table = as_table(client.get_collection("notes", embedding_function=None))
        close_client(client)
        return table

    def put_foreign() -> None:
        client = chromadb.PersistentClient(str(folder), settings=settings)
        client.create_collection("notes")
        close_client(client)

    return Place(f"chroma:{folder}?table=notes", read, put_foreign)


def as_table(collection) -> pa.Table:
    found = collection.get(include=["metadatas", "documents", "embeddings"])
    columns = (found[key] for key in ("ids", "documents", "metadatas", "embeddings"))
    listed = []
    for id_, text, metadata, vector in zip(*columns, strict=True):
        own = {key: metadata[key] for key in COLUMNS}
        listed.append({"id": id_, "text": text, **own, "embedding": list(vector)})
    return pa.Table.from_pylist(listed, row_schema(N_DIMS))
