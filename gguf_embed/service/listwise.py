"""Requests for scores of a listwise reranker: the cosine of vectors that were computed together."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gguf_embed.errors import EmbedError, EngineFailure, InvalidRequest
from gguf_embed.gguf_file.listwise_head import ListwiseHead
from gguf_embed.preprocessing.listwise import Block, ListPrompt
from gguf_embed.preprocessing.pairs import check_characters
from gguf_embed.service.pipeline import Computed, Plan, ServedModel
from gguf_embed.service.rerank import pair_limits
from gguf_embed.types import LISTWISE, FloatMatrix, OutputSpec, RerankRequest, RerankResult, ScoreKind, Usage
from gguf_embed.vectors import Rows

SMALLEST_LENGTH = 1e-8
"""Of a vector, when it is divided by its length; as in PyTorch's cosine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListPlan(Plan):
    """A query with documents, in blocks that are read as one text each."""

    request: RerankRequest
    head: ListwiseHead

    def tokenize(self) -> Sequence[Block | EmbedError]:
        """Equal documents stay: each of them is read."""
        request, model = self.request, self.served.model
        limits = pair_limits(self.served, request)
        check_characters(request.query, request.documents, limits.max_tokens)
        prompt = ListPrompt(model.codec, model.tokenizer, self.head, limits, request.query, request.instruction or "")
        return list(prompt.blocks(request.documents))


async def rank_together(
    request: RerankRequest, served: ServedModel, run: Callable[[Plan], Awaitable[Computed]]
) -> RerankResult:
    """The cosine of each document's vector and the query's. Raises one `EmbedError`."""
    plan = plan_list(request, served)
    computed = await run(plan)
    blocks = [block for block in computed.texts if isinstance(block, Block)]
    _check_failures(computed, blocks)
    vectors = [output.matrix for output in computed.submission.outputs if isinstance(output, Rows)]
    return RerankResult(
        model=served.info,
        scores=scores_of(vectors),
        score_kind=ScoreKind.COSINE,
        usage=Usage(sum(len(block.tokens) for block in blocks)),
        truncated=tuple(cut for block in blocks for cut in block.truncated),
        timings=computed.timings,
    )


def plan_list(request: RerankRequest, served: ServedModel) -> ListPlan:
    """Raises `InvalidRequest` for a label: the model has none."""
    heads = served.model.heads
    assert heads is not None
    assert heads.listwise is not None
    if request.label is not None:
        raise InvalidRequest(f"there is no label {request.label[:60]!r}, this model has none: leave it out", "label")
    return ListPlan(
        served=served,
        output=OutputSpec(LISTWISE),
        index_of=(),
        n_characters=sum(map(len, request.documents)) + 2 * len(request.query),
        request=request,
        head=heads.listwise,
    )


def scores_of(blocks: Sequence[FloatMatrix]) -> NDArray[np.float32]:
    """float32[n_documents] from the vectors of each block, the query's last.

    As in the original: with several blocks, the query's vector is the average of theirs, each weighted with its best
    document's score.
    """
    wide = [block.astype(np.float64) for block in blocks]
    if len(wide) == 1:
        return np.asarray(_cosines(wide[0][:-1], wide[0][-1]), np.float32)
    weights = np.array([(1.0 + _cosines(block[:-1], block[-1]).max()) / 2.0 for block in wide])
    weights = weights if weights.any() else np.ones_like(weights)
    query = np.average([block[-1] for block in wide], axis=0, weights=weights)
    return np.asarray(_cosines(np.concatenate([block[:-1] for block in wide]), query), np.float32)


def _cosines(rows: NDArray[np.float64], query: NDArray[np.float64]) -> NDArray[np.float64]:
    lengths = np.maximum(np.linalg.norm(rows, axis=1), SMALLEST_LENGTH)
    products = rows @ query / (lengths * max(float(np.linalg.norm(query)), SMALLEST_LENGTH))
    return np.asarray(np.clip(products, -1.0, 1.0), np.float64)


def _check_failures(computed: Computed, blocks: Sequence[Block]) -> None:
    """Raises the error of the first block that failed, about its documents."""
    if not computed.submission.failures:
        return
    first = min(computed.submission.failures)
    error, documents = computed.submission.failures[first], blocks[first].documents
    if isinstance(error, EngineFailure) and len(documents) > 1:
        raise EngineFailure(f"documents {documents.start} to {documents.stop - 1}, read together: {error.reason}")
    raise error.for_document(documents.start)
