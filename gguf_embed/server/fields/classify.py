"""Parses requests for a classifier's labels, and formats their probabilities."""

from __future__ import annotations

import numpy as np

from gguf_embed.server.fields.model import MODEL
from gguf_embed.server.fields.options import refuse_elsewhere
from gguf_embed.server.fields.rerank import parse_raw_scores
from gguf_embed.server.fields.truncation import parse_cutting
from gguf_embed.server.http.values import JsonObject
from gguf_embed.types import ClassifyRequest, ClassifyResult


def parse_classify(
    body: JsonObject, texts: tuple[str | tuple[str, str], ...], truncate: bool | None = None
) -> ClassifyRequest:
    """The request for `texts`, which the route has parsed. `truncate`: its default. Raises `InvalidRequest`."""
    refuse_elsewhere(body)
    cutting = parse_cutting(body, truncate)
    return ClassifyRequest(
        texts,
        model=MODEL.read(body),
        raw_scores=parse_raw_scores(body) or False,
        truncate=cutting.truncate,
        max_tokens=cutting.max_tokens,
        cut_start=cutting.cut_start,
    )


def labelled(result: ClassifyResult) -> list[list[dict[str, object]]]:
    """`[{"score": …, "label": …}, …]` of each text, the best label first."""
    order = np.argsort(-result.numbers, axis=1, kind="stable")
    return [
        [{"score": row[column], "label": result.labels[column]} for column in columns.tolist()]
        for row, columns in zip(result.numbers, order, strict=True)
    ]
