"""Parses the replies of `/v1/embeddings` and `/v1/rerank`, after the clock has stopped. Pure."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gguf_embed.errors import EngineFailure
from gguf_embed.types import FloatMatrix


@dataclass(frozen=True, slots=True)
class Answers:
    """All vectors of one run, in the order of its texts, and the number of tokens of each request."""

    vectors: (
        FloatMatrix  # float32[n_texts, n_embd]; of rerank float32[n_requests, n_documents], see `read_rerank_replies`
    )
    n_tokens: tuple[int, ...]  # per request, the server's own `usage`


def read_replies(replies: Sequence[bytes], n_texts: Sequence[int]) -> Answers:
    """Decode all replies. Raises `EngineFailure` for a wrong number of vectors, or numbers that are not finite."""
    vectors: list[FloatMatrix] = []
    n_tokens: list[int] = []
    for index, (reply, expected) in enumerate(zip(replies, n_texts, strict=True)):
        try:
            parsed = json.loads(reply)
            rows = sorted(parsed["data"], key=lambda row: row["index"])
            n_tokens.append(int(parsed["usage"]["prompt_tokens"]))
            vectors.extend(_read_vector(row["embedding"]) for row in rows)
        except (ValueError, KeyError, TypeError) as error:
            raise EngineFailure(f"reply {index} is not an embeddings reply: {reply[:200]!r}") from error
        if [row["index"] for row in rows] != list(range(expected)):
            raise EngineFailure(f"reply {index} has {len(rows)} vectors, expected {expected}")
    return Answers(_stack(vectors), tuple(n_tokens))


def read_rerank_replies(replies: Sequence[bytes], n_documents: Sequence[int]) -> Answers:
    """Decode all replies. Each becomes a row: the scores in the order of the documents, minus their mean.

    The cosine of two such rows is the correlation of the scores. Raises `EngineFailure` like `read_replies`.
    """
    rows: list[FloatMatrix] = []
    n_tokens: list[int] = []
    for index, (reply, expected) in enumerate(zip(replies, n_documents, strict=True)):
        try:
            parsed = json.loads(reply)
            scores = {int(result["index"]): float(result["relevance_score"]) for result in parsed["results"]}
            n_tokens.append(int(parsed["usage"]["prompt_tokens"]))
        except (ValueError, KeyError, TypeError) as error:
            raise EngineFailure(f"reply {index} is not a rerank reply: {reply[:200]!r}") from error
        if sorted(scores) != list(range(expected)):
            raise EngineFailure(f"reply {index} has {len(scores)} scores, expected {expected}")
        row = np.array([scores[number] for number in range(expected)], np.float64)
        rows.append(row - row.mean())
    return Answers(_stack(rows), tuple(n_tokens))


def _stack(rows: Sequence[FloatMatrix]) -> FloatMatrix:
    """One float32 matrix. Raises `EngineFailure` for rows of different lengths and for numbers that are not finite."""
    if len({row.shape for row in rows}) > 1:
        raise EngineFailure("the replies have vectors of different lengths")
    matrix: FloatMatrix = np.stack(rows).astype(np.float32, copy=False)
    if not np.isfinite(matrix).all():
        raise EngineFailure("a reply contains numbers that are not finite")
    return matrix


def min_cosine(ours: FloatMatrix, theirs: FloatMatrix) -> float:
    """The lowest cosine between corresponding rows of two float32[n, d]."""
    if ours.shape != theirs.shape:
        raise EngineFailure(f"two servers answered the same requests in different shapes: {ours.shape}, {theirs.shape}")
    lengths = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    return float((np.einsum("ij,ij->i", ours, theirs) / np.maximum(lengths, 1e-12)).min())


def _read_vector(embedding: Any) -> FloatMatrix:
    """One vector, as base64 of little-endian float32 or as a list of numbers."""
    if isinstance(embedding, str):
        return np.frombuffer(base64.b64decode(embedding, validate=True), dtype="<f4")
    return np.asarray(embedding, dtype=np.float32)
