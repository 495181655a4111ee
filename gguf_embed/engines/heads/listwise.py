"""The vectors of a listwise reranker from token rows. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import numpy as np

from gguf_embed.gguf_file.listwise_head import ListwiseHead
from gguf_embed.types import LISTWISE, FloatMatrix
from gguf_embed.vectors import Rows


def marked_vectors(rows: Rows, batch: Sequence[Sequence[int]], head: ListwiseHead) -> Rows:
    """A vector for each marker token of `batch`, whose tokens have the rows `rows`.

    Each text is computed by itself, so that the others do not change how BLAS rounds.
    """
    markers = (head.document_token, head.query_token)
    marked = [text[np.isin(tokens, markers)] for tokens, text in zip(batch, rows.texts(), strict=True)]
    return Rows(
        LISTWISE, np.concatenate([projected(text, head) for text in marked]), (0, *accumulate(map(len, marked)))
    )


def projected(rows: FloatMatrix, head: ListwiseHead) -> FloatMatrix:
    """float32[n, n_embd] → float32[n, n_out]."""
    return head.output(np.maximum(head.hidden(rows), 0.0))
