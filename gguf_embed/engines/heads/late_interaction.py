"""Multi-vectors for late interaction (ColBERT) from token rows. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from gguf_embed.gguf_file.token_heads import LateInteraction
from gguf_embed.types import MULTIVECTOR
from gguf_embed.vectors import Rows, normalize


def multivectors(rows: Rows, batch: Sequence[Sequence[int]], late: LateInteraction, *, is_query: bool) -> Rows:
    """The rows of `batch`'s tokens, projected, without the tokens that get no vector, each of length 1.

    Each text is projected by itself, so that the others do not change how BLAS rounds.
    """
    matrix = rows.matrix
    if late.projection is not None:
        matrix = np.concatenate([late.projection(text) for text in rows.texts()])
    kept = [kept_tokens(tokens, late, is_query=is_query) for tokens in batch]
    offsets = (0, *accumulate(int(mask.sum()) for mask in kept))
    return Rows(MULTIVECTOR, normalize(matrix[np.concatenate(kept)], 2), offsets)


def kept_tokens(tokens: Sequence[int], late: LateInteraction, *, is_query: bool) -> NDArray[np.bool_]:
    """bool[n_tokens]: which tokens of a text get a vector. At least one: a text without any keeps its last token."""
    kept = np.ones(len(tokens), np.bool_)
    if late.skips_first:
        kept[0] = False
    if late.skipped and not is_query:
        kept &= ~np.isin(tokens, list(late.skipped))
    if not kept.any():
        kept[-1] = True
    return kept
