"""The head of a listwise reranker (jina-reranker-v3), which reads a query and several documents as one text.

A marker token ends each document, another one the query. The rows of these tokens go through two linear layers with
ReLU in between; the score of a document is the cosine of its row and the query's.

    gguf-embed.listwise.dimensions        uint32                        n_out
    gguf-embed.listwise.hidden            uint32                        n_hidden
    gguf-embed.listwise.weight            float32[n_hidden * n_embd]    row by row
    gguf-embed.listwise.output_weight     float32[n_out * n_hidden]     row by row
    gguf-embed.listwise.document_token    uint32                        the marker after a document
    gguf-embed.listwise.query_token       uint32                        the marker after the query
    gguf-embed.listwise.document_length   uint32                        limit in tokens
    gguf-embed.listwise.query_length      uint32                        limit in tokens
    gguf-embed.listwise.max_documents     uint32                        in one text
"""

from __future__ import annotations

from dataclasses import dataclass

from gguf_embed.gguf_file.head_source import MAX_DIMENSIONS, MAX_LENGTH, HeadSource, Projection
from gguf_embed.gguf_file.header import GgufHeader

LISTWISE = "gguf-embed.listwise."

_ARRAYS = (LISTWISE + "weight", LISTWISE + "output_weight")


@dataclass(frozen=True, slots=True, eq=False)
class ListwiseHead:
    """How a listwise reranker reads a query with documents, and the layers after it."""

    hidden: Projection
    output: Projection
    document_token: int
    query_token: int
    document_length: int  # limit in tokens
    query_length: int
    max_documents: int  # in one text


def has_listwise_head(header: GgufHeader) -> bool:
    return LISTWISE + "dimensions" in header.metadata


def read_listwise_head(header: GgufHeader) -> ListwiseHead:
    """Of a file that has one. Raises `ModelFileError` for numbers that are missing or do not fit the model."""
    source = HeadSource(header, _ARRAYS)
    n_out, n_hidden = _size(source, "dimensions", MAX_DIMENSIONS), _size(source, "hidden", MAX_DIMENSIONS)
    weight = source.numbers(LISTWISE + "weight", n_hidden * source.n_embd).reshape(n_hidden, source.n_embd)
    output = source.numbers(LISTWISE + "output_weight", n_out * n_hidden).reshape(n_out, n_hidden)
    return ListwiseHead(
        hidden=Projection(weight, None),
        output=Projection(output, None),
        document_token=_token(source, "document_token"),
        query_token=_token(source, "query_token"),
        document_length=_size(source, "document_length", MAX_LENGTH),
        query_length=_size(source, "query_length", MAX_LENGTH),
        max_documents=_size(source, "max_documents", MAX_LENGTH),
    )


def _size(source: HeadSource, name: str, largest: int) -> int:
    value = source.size(LISTWISE + name, largest)
    if value is None:
        raise source.error(f"{LISTWISE}{name} is missing")
    return value


def _token(source: HeadSource, name: str) -> int:
    token = source.header.get(LISTWISE + name, int)
    if token is None:
        raise source.error(f"{LISTWISE}{name} is missing")
    source.check_id(LISTWISE + name, token)
    return token
