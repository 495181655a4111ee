"""Reads the replies of servers. A broken one is `Temporary`: a proxy's page, or a reply that was cut off."""

from __future__ import annotations

import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from gguf_embed.embedder.endpoint_errors import Temporary, Trouble
from gguf_embed.embedder.facts import SparseVector, Vector
from gguf_embed.errors import InvalidRequest, NotSupported
from gguf_embed.types import FloatMatrix, Span
from gguf_embed.vectors import finish


@dataclass(frozen=True, slots=True)
class EmbedReply:
    """A reply of `/v1/embeddings`."""

    vectors: FloatMatrix  # float32[n_texts, n_dims], in the order of the texts
    n_tokens: int  # 0 if the server does not count
    model: str  # as the server calls it; "" if it does not


def parse_json(body: bytes, server: str) -> Any:
    """Raises `Temporary` for anything but JSON."""
    try:
        return orjson.loads(body)
    except ValueError:
        begin = body[:40].decode("utf-8", "replace").strip()
        what = f"beginning with {begin!r}" if begin else "which is empty"
        raise _broken(server, f"{len(body):,} bytes that are no complete JSON, {what}") from None


def parse_embeddings(body: bytes, n_texts: int, server: str) -> EmbedReply:
    """Vectors as base64 or as numbers, in any order. Raises `Temporary` unless there is exactly one for each text."""
    reply = parse_json(body, server)
    data = reply.get("data") if isinstance(reply, dict) else None
    if not isinstance(data, list):
        raise _broken(server, "a reply without vectors")
    try:
        rows = {int(item["index"]): _vector(item["embedding"]) for item in data}
    except (KeyError, TypeError, ValueError, binascii.Error):
        raise _broken(server, "vectors that cannot be read") from None
    if len(data) != n_texts or set(rows) != set(range(n_texts)):
        raise _broken(server, f"{len(data)} vectors for {n_texts} texts")
    widths = {len(row) for row in rows.values()}
    if len(widths) != 1 or 0 in widths:
        raise _broken(server, f"vectors of different lengths, {sorted(widths)[:4]}")
    vectors = np.stack([rows[index] for index in range(n_texts)])
    if not np.isfinite(vectors).all():
        raise _broken(server, "numbers that are not finite")
    usage = reply.get("usage")
    n_tokens = usage.get("prompt_tokens") if isinstance(usage, dict) else 0
    model = reply.get("model")
    return EmbedReply(vectors, n_tokens if isinstance(n_tokens, int) else 0, model if isinstance(model, str) else "")


def parse_multivectors(body: bytes, n_texts: int, server: str) -> list[FloatMatrix]:
    """float32[n_tokens, n_dims] for each text, in order. Raises `NotSupported` for a reply with dense vectors."""
    items = _items(body, n_texts, server, "embedding", "multi-vectors")
    try:
        return [np.stack([_vector(row) for row in _list(rows)]) for rows in items]
    except (TypeError, ValueError, binascii.Error):
        raise _broken(server, "multi-vectors that cannot be read") from None


def parse_muvera(body: bytes, n_texts: int, server: str, n_dims: int) -> list[Vector]:
    """float32[n_dims] for each text, in order. Raises `NotSupported` for vectors of another width."""
    vectors = parse_embeddings(body, n_texts, server).vectors
    if vectors.shape[1] != n_dims:
        raise NotSupported(
            f"{server} gives no MUVERA vectors: use gguf-embed serve with a model that has multi-vectors"
        )
    return list(vectors)


def parse_sparse(body: bytes, n_texts: int, server: str) -> list[SparseVector]:
    """One for each text, in order. Raises `NotSupported` for a reply with dense vectors."""
    items = _items(body, n_texts, server, "sparse_embedding", "sparse vectors")
    try:
        found = [
            SparseVector(np.asarray(item["indices"], np.int32), np.asarray(item["values"], np.float32))
            for item in items
        ]
    except (KeyError, TypeError, ValueError, OverflowError):
        raise _broken(server, "sparse vectors that cannot be read") from None
    if any(vector.indices.shape != vector.values.shape or vector.indices.ndim != 1 for vector in found):
        raise _broken(server, "sparse vectors that cannot be read")
    return found


def _items(body: bytes, n_texts: int, server: str, name: str, kind: str) -> list[Any]:
    """The value `name` of each text's item. Raises `NotSupported` if the server has ignored what was asked for."""
    reply = parse_json(body, server)
    data = reply.get("data") if isinstance(reply, dict) else None
    if not isinstance(data, list) or not all(isinstance(item, dict) for item in data):
        raise _broken(server, "a reply without vectors")
    if any(_is_dense(item.get(name)) for item in data):
        raise NotSupported(f"{server} gives no {kind}: use gguf-embed serve with a model that has them")
    by_index = {item["index"]: item[name] for item in data if isinstance(item.get("index"), int)}
    if len(data) != n_texts or by_index.keys() != set(range(n_texts)):
        raise _broken(server, f"{len(data)} vectors for {n_texts} texts")
    return [by_index[index] for index in range(n_texts)]


def _is_dense(value: Any) -> bool:
    """Whether it is one vector, as base64 or numbers, or nothing at all."""
    numbers = isinstance(value, list) and bool(value) and isinstance(value[0], int | float)
    return numbers or not isinstance(value, list | dict)


def _vector(value: Any) -> Vector:
    """float32[n_dims]. Raises `TypeError` or `ValueError`."""
    if isinstance(value, str):
        return np.frombuffer(binascii.a2b_base64(value, strict_mode=True), "<f4").astype(np.float32)
    vector = np.asarray(value, np.float32)
    if vector.ndim != 1:
        raise ValueError(vector.shape)
    return vector


def cut(vectors: FloatMatrix, dimensions: int | None, *, normalize: bool = False) -> FloatMatrix:
    """What a server ignored, done here: fewer dimensions. Raises `InvalidRequest` if it has fewer than asked for."""
    width = vectors.shape[1]
    if dimensions is not None and dimensions > width:
        raise InvalidRequest(f"the call asks for {dimensions} dimensions, this model has {width}", "dimensions")
    if dimensions in (None, width):
        return finish(vectors, 2, None) if normalize else vectors
    return finish(vectors, 2, dimensions)


def parse_scores(body: bytes, n_documents: int, server: str) -> Vector:
    """float32[n_documents], from Jina's shape (also llama-server's, Cohere's) or TEI's. Raises `Temporary`."""
    reply = parse_json(body, server)
    results = reply.get("results") if isinstance(reply, dict) else reply
    scores = np.full(n_documents, np.nan, np.float32)
    try:
        for item in _list(results):
            score = item["relevance_score"] if "relevance_score" in item else item["score"]
            scores[int(item["index"])] = float(score)
    except (KeyError, TypeError, ValueError, IndexError):
        raise _broken(server, "scores that cannot be read") from None
    if not np.isfinite(scores).all():
        raise _broken(server, "not a score for each document")
    return scores


def parse_tokens(body: bytes, server: str) -> list[int]:
    """llama-server's shape, or TEI's. Raises `Temporary`."""
    reply = parse_json(body, server)
    try:
        found = reply["tokens"] if isinstance(reply, dict) else [token["id"] for token in _list(reply[0])]
        return [int(token) for token in _list(found)]
    except (KeyError, TypeError, ValueError, IndexError):
        raise _broken(server, "tokens that cannot be read") from None


def parse_offsets(body: bytes, n_texts: int, server: str) -> list[list[Span | None]]:
    """TEI's shape: each text's own tokens as (start, stop) in code points. Raises `NotSupported` for another one."""
    reply = parse_json(body, server)
    try:
        found = [[_span(token) for token in _list(tokens) if not token["special"]] for tokens in _list(reply)]
    except (KeyError, TypeError):
        raise NotSupported(f"{server} does not tell the offsets of tokens") from None
    if len(found) != n_texts:
        raise _broken(server, f"tokens of {len(found)} texts for {n_texts}")
    return found


def _span(token: Any) -> Span | None:
    start, stop = token["start"], token["stop"]
    return None if start is None or stop is None else (int(start), int(stop))


def _list(value: Any) -> Sequence[Any]:
    if not isinstance(value, list):
        raise TypeError(type(value))
    return value


def _broken(server: str, what: str) -> Temporary:
    return Temporary(f"{server} sent {what}", Trouble.FAILED)
