"""Rows as lines of JSON, with the vector as the last key or without one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import orjson
import pyarrow as pa

from gguf_embed.ingest.batches import batched
from gguf_embed.ingest.sinks.row_vectors import matrix_of, with_vectors

METADATA = b',"metadata":'
EMBEDDING = b',"embedding":'
ROWS_PER_READ = 1_000


def to_lines(rows: pa.RecordBatch, *, vectors: bool) -> Iterator[bytes]:
    """One line per row, with its line break. The metadata are spelled as in the row."""
    names = rows.schema.names[:-1]
    columns = [rows.column(name).to_pylist() for name in names[:-1]]
    # a line break in JSON is always between its parts
    metadata = [text.replace("\n", " ").replace("\r", " ") for text in rows.column("metadata").to_pylist()]
    matrix = matrix_of(rows)
    for i, values in enumerate(zip(*columns, strict=True)):
        line = dict(zip(names, values, strict=False), metadata=orjson.Fragment(metadata[i]))
        if vectors:
            line["embedding"] = matrix[i]
        yield orjson.dumps(line, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE)


def from_lines(
    lines: Iterable[bytes], schema: pa.Schema, *, vectors: bool, read: bool = True
) -> Iterator[pa.RecordBatch]:
    """Batches of all columns of `schema`; without the vectors, unless the lines have `vectors` and they are `read`."""
    fields = [schema.field(name) for name in schema.names[:-1]]
    for batch in batched(lines, ROWS_PER_READ):
        # no earlier text has these keys in it, because its quotes would be escaped; what is last are numbers only
        starts = [line.index(METADATA) for line in batch]
        ends = [line.rfind(EMBEDDING if vectors else b"}") for line in batch]
        heads = orjson.loads(b"[" + b"},".join(line[:start] for line, start in zip(batch, starts, strict=True)) + b"}]")
        arrays = [pa.array([head[field.name] for head in heads], field.type) for field in fields[:-1]]
        arrays.append(
            pa.array([line[starts[i] + len(METADATA) : ends[i]].decode() for i, line in enumerate(batch)], pa.string())
        )
        rows = pa.record_batch(arrays, schema=pa.schema(fields))
        if vectors and read:
            texts = (line[end + len(EMBEDDING) :].rstrip()[:-1] for line, end in zip(batch, ends, strict=True))
            rows = with_vectors(rows, np.array(orjson.loads(b"[" + b",".join(texts) + b"]"), np.float32), schema)
        yield rows


def ids_of(lines: Sequence[bytes]) -> pa.Array:
    """The ids alone."""
    return pa.array([orjson.loads(line[: line.index(b',"doc_id":')] + b"}")["id"] for line in lines], pa.string())
