"""What moves through a job: documents from the source, chunks, and the rows that a sink stores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from gguf_embed.types import DENSE


@dataclass(frozen=True, slots=True)
class BadRow:
    """In place of a text: why this row of the source has none."""

    reason: str  # continues "data.jsonl:17 …", e.g. "has no field 'text'"


@dataclass(frozen=True, slots=True)
class DocumentBatch:
    """Consecutive documents of a source, as columns of equal length."""

    ids: Sequence[str | None]  # None: the source has no ids; the place becomes the id
    texts: Sequence[str | BadRow]
    metadata: Sequence[str]  # a JSON object each; "{}" for none
    places: Sequence[str]  # where a person finds it: "data.jsonl:17"; unique in the source, and the same in every run

    def __len__(self) -> int:
        return len(self.texts)


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of a document: characters `start` to `end` (code points, end not included) of its text."""

    start: int
    end: int
    headings: tuple[str, ...] = ()  # the titles that it stands under, outermost first


@dataclass(frozen=True, slots=True)
class Hit:
    """One stored row that a search found."""

    id: str
    score: float  # higher is nearer: the cosine, or what the metric of the sink gives, turned so
    doc_id: str
    text: str
    metadata: str = "{}"  # a JSON object
    headings: str = ""


METADATA_KEYS = ("doc_id", "chunk", "start", "end", "hash", "headings", "text", "metadata")
"""The columns of a row besides its id and its vector."""


def row_schema(n_dims: int) -> pa.Schema:
    """The rows that a sink stores, one per chunk.

    `id` is unique in the sink: the document's id if it is stored whole, else "<doc_id>#<chunk>". `hash` has 32
    hexadecimal digits over everything that the document's rows depend on, a hyphen, and how many rows it has.
    `headings` are joined by " > ". `metadata` is JSON. Rows with other kinds of vectors also have the columns `sparse`
    and `multivector`, and no `embedding` without dense ones.
    """
    return pa.schema(
        [
            pa.field("id", pa.string(), nullable=False),
            pa.field("doc_id", pa.string(), nullable=False),
            pa.field("chunk", pa.int32(), nullable=False),
            pa.field("start", pa.int64(), nullable=False),
            pa.field("end", pa.int64(), nullable=False),
            pa.field("hash", pa.string(), nullable=False),
            pa.field("headings", pa.string(), nullable=False),
            pa.field("text", pa.string(), nullable=False),
            pa.field("metadata", pa.string(), nullable=False),
            pa.field("embedding", pa.list_(pa.field("item", pa.float32()), n_dims), nullable=False),
        ]
    )


SPARSE_TYPE = pa.struct([("indices", pa.list_(pa.int32())), ("values", pa.list_(pa.float32()))])
"""Of the column "sparse", which rows of a job with sparse vectors have."""


def multivector_type(n_dims: int) -> pa.DataType:
    """Of the column "multivector", which rows of a job with multi-vectors have: a vector per token."""
    return pa.list_(pa.list_(pa.field("item", pa.float32()), n_dims))


STORED = ("id", "doc_id", "chunk", "hash")
"""The columns from which a job's state can be rebuilt."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What the vectors of a sink were made with. Rows made with another one must not be mixed with them."""

    ingest_id: str  # random, given when the sink was created; the job's state has the same
    model: str  # its name
    fingerprint: str  # of the model file, "sha256:…"; "" if an endpoint does not tell
    dimensions: int  # of dense vectors; 0: there are none
    pooling: str
    normalized: bool
    prompt: str  # what is put before each text
    chunking: str  # settings as JSON; "{}": documents are stored whole
    metric: str = "cosine"
    probes: tuple[tuple[float, ...], ...] = ()  # vectors of `PROBE_TEXTS`
    created: str = ""  # ISO 8601, UTC
    version: str = ""  # of gguf-embed
    format: int = 1
    vectors: tuple[str, ...] = (DENSE,)  # the kinds that each row has
    multivector_dimensions: int = 0
    n_vocab: int = 0  # entries that a sparse vector may have
    idf: bool = False  # the database multiplies sparse weights by the inverse document frequency, if it can
    extra: dict[str, str] = field(default_factory=dict)


PROBE_TEXTS = ("The quick brown fox jumps over the lazy dog.", "資料庫 42", "def f(x): return x + 1")
"""Embedded to recognize a model whose fingerprint is not known."""
