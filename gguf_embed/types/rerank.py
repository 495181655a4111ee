"""Rerank requests and results: documents in, scores out."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gguf_embed.types.model import ModelInfo
from gguf_embed.types.outputs import OutputSpec
from gguf_embed.types.results import AppliedPrompt, Timings, Truncation, Usage


class ScoreKind(StrEnum):
    """What a rerank score is."""

    LOGIT = "logit"  # unbounded, straight from the rank head
    PROBABILITY = "probability"  # 0 to 1
    COSINE = "cosine"  # of two vectors, -1 to 1
    MAXSIM = "maxsim"  # sum over the query's vectors of the largest dot product with a document's


@dataclass(frozen=True, slots=True)
class RerankRequest:
    """A request for scores, independent of the dialect it came in."""

    query: str
    documents: tuple[str, ...]
    model: str | None = None  # as the client wrote it; None: not named
    method: Literal["rank", "embedding"] = "rank"  # embedding: the cosine of two vectors
    raw_scores: bool = True  # False: between 0 and 1, with a sigmoid where the model gives a logit
    label: str | None = None  # the label to use as the score, if the model has several
    truncate: bool | None = None  # cut documents that are too long; None: the server's default
    max_document_tokens: int | None = None  # cut documents to this many, regardless of `truncate`
    output: OutputSpec | None = None  # method embedding only; None: the model's own
    use_prompts: bool = False  # method embedding only: use the model's prompts for queries and documents
    max_tokens: int | None = None  # a limit per document with its query; no more than the model's own applies
    cut_start: bool = False  # truncation cuts a document's beginning instead of its end
    instruction: str | None = None  # what makes a document relevant; None: as the model's template has it


@dataclass(frozen=True, slots=True)
class ClassifyRequest:
    """A request for the probabilities of a classifier's labels, for texts or pairs of texts."""

    texts: tuple[str | tuple[str, str], ...]
    model: str | None = None
    raw_scores: bool = False  # the head's own numbers instead of probabilities
    truncate: bool | None = None
    max_tokens: int | None = None
    cut_start: bool = False


@dataclass(frozen=True, slots=True)
class ClassifyResult:
    """The numbers of each text, float32[n_texts, n_labels], and what they stand for."""

    model: ModelInfo
    numbers: NDArray[np.float32]
    labels: tuple[str, ...]  # one per number
    usage: Usage
    truncated: tuple[Truncation, ...] = ()
    timings: Timings = field(default_factory=Timings)


@dataclass(frozen=True, slots=True)
class RerankResult:
    """The scores of one request, float32[n_documents] in the order of its documents."""

    model: ModelInfo
    scores: NDArray[np.float32]
    score_kind: ScoreKind
    usage: Usage
    truncated: tuple[Truncation, ...] = ()
    timings: Timings = field(default_factory=Timings)
    prompts: tuple[AppliedPrompt | None, AppliedPrompt | None] = (None, None)  # of the query, of the documents
