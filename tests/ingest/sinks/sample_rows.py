"""Manifests and rows for tests of sinks: odd ids, odd texts, random vectors."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa

from gguf_embed.ingest.rows import Manifest, row_schema

N_DIMS = 12
MANIFEST = Manifest(
    ingest_id="0123456789abcdef",
    model="tiny 模型",
    fingerprint="sha256:00ff",
    dimensions=N_DIMS,
    pooling="mean",
    normalized=True,
    prompt='query: "é" ',
    chunking='{"size": 256, "by": "heading"}',
    probes=((0.25, -0.5), (1.0, 1e-7)),
    created="2026-11-29T00:00:00Z",
    version="0.2.0",
    extra={"source": "docs/*.md", "用戶": "🙂"},
)
ODD_IDS = (
    "o'hara",
    'two "quotes"',
    "資料庫/42#0",
    "🙂🙂",
    "back\\slash",
    "100 % _ $1 ? {x}",
    "  spaces ",
    "a,b;c--d",
    "007",
)
ODD_TEXTS = (
    "",
    "line\nbreak\r\nand\ttab",
    "'; drop table documents; --",
    "e\u0301 é ﷽ 𝔘",
    "👩‍👩‍👧‍👦 family",
    '{"a": [1, 2]}',
    "\\N \\. ,",
    "\u2028x",
)


def vectors(n: int, seed: int, n_dims: int = N_DIMS) -> np.ndarray:
    """Random float32[n, n_dims] of length 1."""
    drawn = np.random.default_rng(seed).standard_normal((n, n_dims)).astype(np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def rows(
    ids: Sequence[str], seed: int = 0, matrix: np.ndarray | None = None, text: str | None = None
) -> pa.RecordBatch:
    """Rows that differ in all columns, and depend on their place and `seed` only."""
    matrix = vectors(len(ids), seed) if matrix is None else matrix
    texts = [text if text is not None else ODD_TEXTS[i % len(ODD_TEXTS)] + f" {seed}.{i}" for i in range(len(ids))]
    metadata = [{}, {"title": "Ünï'\"\\ 🙂", "n": 2**53, "x": 0.1, "tags": ["a", None], "deep": {"embedding": [1]}}]
    return pa.record_batch(
        [
            pa.array(list(ids)),
            pa.array([f"doc {i // 2}" for i in range(len(ids))]),
            pa.array([i % 2 for i in range(len(ids))], pa.int32()),
            pa.array([i * 3_000_000_000 for i in range(len(ids))], pa.int64()),
            pa.array([i * 3_000_000_000 + 7 for i in range(len(ids))], pa.int64()),
            pa.array([f"{seed:016x}{i:016x}" for i in range(len(ids))]),
            pa.array(["" if i % 3 else f"Guide > Größe {i}" for i in range(len(ids))]),
            pa.array(texts),
            pa.array([json.dumps(metadata[i % 2], ensure_ascii=i % 4 < 2) for i in range(len(ids))]),
            pa.FixedSizeListArray.from_arrays(pa.array(matrix.reshape(-1)), matrix.shape[1]),
        ],
        schema=row_schema(matrix.shape[1]),
    )


def numbered(n: int, first: int = 0) -> list[str]:
    return [f"doc-{i}#0" for i in range(first, first + n)]


def by_id(batches: Iterable[pa.RecordBatch] | pa.Table) -> dict[str, dict[str, object]]:
    """Rows under their id, with the metadata as an object. No id may be there twice."""
    listed = batches.to_pylist() if isinstance(batches, pa.Table) else [row for b in batches for row in b.to_pylist()]
    found = {str(row["id"]): row for row in listed}
    assert len(found) == len(listed), "an id is stored twice"
    for row in found.values():
        if "metadata" in row:
            row["metadata"] = json.loads(row["metadata"])
    return found
