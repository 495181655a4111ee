"""Runs every request on a loaded model: a plan is tokenized, then computed.

Planners make the plans: `embed_plan` for texts, `rerank` for a query with documents, `embed_images` for images. Each
also turns what was computed into the result.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from gguf_embed.errors import EmbedError, NotSupported
from gguf_embed.metrics import Metrics
from gguf_embed.model_pool.loading import LoadedModel
from gguf_embed.model_pool.model_threads import Patience
from gguf_embed.output_cache.cache import OutputCache
from gguf_embed.preprocessing.tokens import TokenizedText
from gguf_embed.scheduler.scheduler import Submission
from gguf_embed.types import JOINT, MULTIVECTOR, TOKENS, ModelInfo, OutputSpec, Timings

_T = TypeVar("_T")
_InputT = TypeVar("_InputT", bound=Hashable)

INLINE_CHARACTERS = 4_000
"""Requests up to this size are tokenized on the event loop (under 2 ms), if the tokenizer is one whose time grows with
the text alone, which are the exact ones; larger ones, and those for llama.cpp's tokenizers, on a thread."""

TOKENIZING_S, TOKENIZING_S_PER_CHARACTER = 5.0, 5e-5
"""How long a request's texts may be tokenized: over ten times what the slowest tokenizer takes, and 5 s."""

MIN_WAIT_S = 1.0
"""So long may a request wait for a thread even if it may not wait for room in the queue, because most threads are busy
for milliseconds only."""

INLINE_TOKENS = 500
"""Up to this many ids are decoded on the event loop."""

PER_TOKEN = (TOKENS, MULTIVECTOR, JOINT)
"""Kinds of output that have, or may have, a row per token."""

OFFSETS_S = 60.0
"""How much longer it may take if the offsets of the tokens are wanted, which have a budget of their own."""

INLINE_OFFSET_CHARACTERS = 500
"""Like `INLINE_CHARACTERS`, for requests that need token offsets."""


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A loaded model, with the facts about it under the name it is served by."""

    model: LoadedModel
    info: ModelInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan(ABC):
    """One checked request for one loaded model. Nothing has been computed yet."""

    served: ServedModel
    output: OutputSpec  # what the engine computes
    index_of: Sequence[int]  # input i of the request is text `index_of[i]`: equal inputs are computed once
    n_characters: int  # of the texts to tokenize
    finds_offsets: bool = False  # tokenizing then takes several times as long
    id_offset: int = 0  # added to all ids for the engine: they stand for the same tokens in a task of the model

    @abstractmethod
    def tokenize(self) -> Sequence[TokenizedText | EmbedError]:
        """Tokenize each text; an error takes the place of a text that fails alone. May take seconds; any thread.

        Raises one `EmbedError` for the whole request; its index counts the request's inputs.
        """

    def check_size(self, texts: Sequence[TokenizedText | EmbedError]) -> None:  # noqa: B027  # nothing to check
        """Raises `InvalidRequest` for token rows that would take too much memory. Called for token output only."""

    async def submit(self, sequences: Sequence[Sequence[int]], cache: OutputCache | None) -> Submission:
        """Compute the token sequences, or take what the cache has."""
        model = self.served.model
        if self.id_offset:
            sequences = [[token + self.id_offset for token in tokens] for tokens in sequences]
        if cache is not None:
            return await cache.submit(model, sequences, self.output)
        return await model.scheduler.submit(sequences, self.output)


@dataclass(frozen=True, slots=True)
class Computed:
    """A plan after it has run."""

    texts: Sequence[TokenizedText | EmbedError]
    submission: Submission
    timings: Timings


class Pipeline:
    """Runs plans on leased models. Methods belong to the event loop."""

    def __init__(self, metrics: Metrics, cache: OutputCache | None = None) -> None:
        self._metrics = metrics
        self._cache = cache

    async def run(self, plan: Plan, load_s: float) -> Computed:
        """Tokenize and compute. Raises one `EmbedError`; a failure of a single text may be in the result instead."""
        started_s = time.monotonic()
        texts = await tokenizing(plan.served.model, plan.n_characters, plan.tokenize, finds_offsets=plan.finds_offsets)
        tokenized_s = time.monotonic()
        if plan.output.kind in PER_TOKEN:
            plan.check_size(texts)
        sequences: list[Sequence[int]] = []
        for text in texts:
            if isinstance(text, TokenizedText):
                sequences += text.sequences if text.windows else [text.tokens]
        submission = await plan.submit(sequences, self._cache)
        for error in submission.failures.values():
            if isinstance(error, NotSupported):
                raise error  # the model cannot do this for any text
        if len(texts) < len(plan.index_of):
            self._metrics.observe_duplicates(len(plan.index_of) - len(texts))
        timings = Timings(tokenized_s - started_s, submission.queue_s, submission.compute_s, load_s)
        return Computed(texts, submission, timings)

    def close(self) -> None:
        if self._cache is not None:
            self._cache.close()


async def tokenizing(
    model: LoadedModel, n_characters: int, work: Callable[[], _T], *, finds_offsets: bool = False
) -> _T:
    """Run work that tokenizes this many characters: here if that is quick, else on one of the model's threads.

    Raises `Overloaded` if none is free for as long as a request may wait for room in the model's queue.
    """
    if finds_offsets and n_characters > INLINE_OFFSET_CHARACTERS:
        return await model.threads.offsets.run(work, _patience(model, n_characters, OFFSETS_S), n_characters)
    if n_characters > INLINE_CHARACTERS:
        return await model.threads.long.run(work, _patience(model, n_characters), n_characters)
    if not model.tokenizes_inline:
        return await model.threads.short.run(work, _patience(model, n_characters), n_characters)
    return work()


async def decoding(model: LoadedModel, tokens: Sequence[int], work: Callable[[], _T]) -> _T:
    """Run work that looks up `tokens` in the model's codec, at about 6 microseconds each."""
    if len(tokens) > INLINE_TOKENS or model.loaded.process_state is not None:
        return await model.threads.long.run(work, cost=len(tokens))
    return work()


def _patience(model: LoadedModel, n_characters: int, more_s: float = 0.0) -> Patience:
    seconds = TOKENIZING_S + TOKENIZING_S_PER_CHARACTER * n_characters + more_s
    wait_s = max(MIN_WAIT_S, model.config.queue.max_wait_s)
    return Patience(seconds, f"tokenizing {n_characters:,} characters", wait_s)


def deduplicate(inputs: Sequence[_InputT]) -> tuple[Sequence[_InputT], Sequence[int]]:
    """The distinct inputs, and for each input its index among them."""
    if len(inputs) == 1:
        return inputs, range(1)
    first: dict[_InputT, int] = {}
    index_of = [first.setdefault(item, len(first)) for item in inputs]
    return list(first), index_of
