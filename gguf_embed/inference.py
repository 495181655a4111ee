"""One request on one loaded model: check, tokenise, submit, finish."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import accumulate

import numpy as np

from gguf_embed import prompts
from gguf_embed.errors import InvalidRequest, NotSupported
from gguf_embed.metrics import Metrics
from gguf_embed.registry.loading import LoadedModel
from gguf_embed.scheduler.scheduler import Submission
from gguf_embed.tokens import TokenLimits, prepare, tokenize_prompt
from gguf_embed.types import (
    AppliedPrompt,
    EmbedRequest,
    EmbedResult,
    FloatMatrix,
    ModelInfo,
    Pooling,
    Prompt,
    Timings,
    TokenizedText,
    Truncation,
    Usage,
)
from gguf_embed.vectors import finish

INLINE_CHARACTERS = 4_000
"""Requests up to this size are tokenised on the event loop (under 2 ms); larger ones in a thread."""

MAX_TOKEN_ROWS = 1_000_000_000
"""Bytes of per-token rows that one request may ask for: they are held until the reply is written."""

MIN_INPUT_TOKENS = 2
"""A text is at least one token and what is put around it: a smaller limit leaves no room for any."""


@dataclass(frozen=True, slots=True)
class Target:
    """A loaded model, and what is known of it under the name it is served by."""

    model: LoadedModel
    info: ModelInfo


@dataclass(frozen=True, slots=True)
class _Distinct:
    """A request's inputs without repetitions: input i is text `place[i]`."""

    inputs: tuple[Prompt, ...]
    place: tuple[int, ...]


class Inference:
    """Answers requests with models that are held for them. Methods belong to the event loop."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._tokenizers = ThreadPoolExecutor(max_workers=2, thread_name_prefix="tokenize")

    async def embed(self, target: Target, request: EmbedRequest, load_s: float) -> EmbedResult:
        """Answer the whole request. Raises one `EmbedError`, naming the first input at fault."""
        pooling = _pooling_of(request, target.info)
        _check_dimensions(request, target.info)
        started_s = time.monotonic()
        prompt = prompts.choose(request.prompt, target.info.prompts)
        distinct = _without_repetitions(prompts.apply(prompt, request.inputs))
        texts = await self._prepare(target, distinct, request)
        tokenized_s = time.monotonic()
        _check_rows(texts, pooling, target.info.n_embd)
        submission = await target.model.scheduler.submit([text.tokens for text in texts], pooling)
        if len(distinct.inputs) < len(request.inputs):
            self._metrics.observe_duplicates(len(request.inputs) - len(distinct.inputs))
        timings = Timings(tokenized_s - started_s, submission.queue_s, submission.compute_s, load_s)
        rows = _rows_of(submission, distinct)
        return _result(target.info, request, [texts[i] for i in distinct.place], rows, (prompt, timings))

    async def _prepare(self, target: Target, distinct: _Distinct, request: EmbedRequest) -> list[TokenizedText]:
        model = target.model
        truncate = model.config.truncate if request.truncate is None else request.truncate
        limits = _limits_of(request, model.limits)

        def run() -> list[TokenizedText]:
            return prepare(distinct.inputs, model.tokenizer, limits, truncate=truncate)

        if sum(map(len, distinct.inputs)) <= INLINE_CHARACTERS:
            return run()
        return await asyncio.get_running_loop().run_in_executor(self._tokenizers, run)

    async def tokenize(
        self, model: LoadedModel, content: Prompt, *, add_special: bool, parse_special: bool
    ) -> list[int]:
        """The ids that this server would run. Without `parse_special`, "[SEP]" in a text is ordinary characters."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._tokenizers, _tokenize, model, content, add_special, parse_special)

    def close(self) -> None:
        self._tokenizers.shutdown()


def _tokenize(model: LoadedModel, content: Prompt, add_special: bool, parse_special: bool) -> list[int]:
    parts = (content,) if isinstance(content, str) else content
    tokens: list[int] = []
    for position, part in enumerate(parts):
        if not isinstance(part, str):
            tokens += tokenize_prompt((part,), model.tokenizer, model.limits.n_vocab)
        elif parse_special:
            tokens += model.tokenizer.encode(part, add_special=add_special and position == 0)
        else:
            tokens += model.engine.tokenize(part, add_special=add_special and position == 0, parse_special=False)
    return tokens


def _limits_of(request: EmbedRequest, limits: TokenLimits) -> TokenLimits:
    """The request's own, shorter limit on each text, or the model's."""
    n_ctx = request.load.n_ctx
    if n_ctx is None or n_ctx >= limits.max_tokens:
        return limits
    if n_ctx < MIN_INPUT_TOKENS:
        raise InvalidRequest(f"num_ctx is {n_ctx}, a text needs {MIN_INPUT_TOKENS} tokens at least", "options")
    return replace(limits, max_tokens=n_ctx)


def _result(
    info: ModelInfo,
    request: EmbedRequest,
    texts: Sequence[TokenizedText],
    rows: Sequence[FloatMatrix],
    how: tuple[AppliedPrompt | None, Timings],
) -> EmbedResult:
    pooling = _pooling_of(request, info)
    kind = info.embd_normalize if request.embd_normalize is None else request.embd_normalize
    never = pooling in (Pooling.NONE, Pooling.RANK)  # token rows and scores are given as they are
    return EmbedResult(
        model=info,
        pooling=pooling,
        vectors=finish(np.concatenate(rows), -1 if never else kind, request.dimensions),
        row_offsets=(0, *accumulate(len(matrix) for matrix in rows)),
        usage=Usage(sum(len(text.tokens) for text in texts)),
        truncated=tuple(
            Truncation(index, text.n_tokens, len(text.tokens))
            for index, text in enumerate(texts)
            if len(text.tokens) < text.n_tokens
        ),
        timings=how[1],
        prompt=how[0],
    )


def _pooling_of(request: EmbedRequest, info: ModelInfo) -> Pooling:
    served = info.pooling
    pooling = served if request.pooling is None else request.pooling
    if pooling is not served and Pooling.RANK in (pooling, served):
        raise NotSupported(f"this model is served with pooling {served}, so it cannot answer with pooling {pooling}")
    return pooling


def _check_dimensions(request: EmbedRequest, info: ModelInfo) -> None:
    if request.dimensions is not None and not 1 <= request.dimensions <= info.n_embd:
        raise InvalidRequest(
            f"dimensions is {request.dimensions}, this model has {info.n_embd}: ask for 1 to {info.n_embd}",
            "dimensions",
        )


def _check_rows(texts: Sequence[TokenizedText], pooling: Pooling, n_embd: int) -> None:
    size_bytes = 4 * n_embd * sum(len(text.tokens) for text in texts)
    if pooling is Pooling.NONE and size_bytes > MAX_TOKEN_ROWS:
        raise InvalidRequest(
            f"one vector per token makes {size_bytes:,} bytes, the limit per request is {MAX_TOKEN_ROWS:,}: "
            "send fewer texts in one request"
        )


def _without_repetitions(inputs: Sequence[Prompt]) -> _Distinct:
    """Equal inputs are computed once."""
    first: dict[Prompt, int] = {}
    place = tuple(first.setdefault(prompt, len(first)) for prompt in inputs)
    return _Distinct(tuple(first), place)


def _rows_of(submission: Submission, distinct: _Distinct) -> Sequence[FloatMatrix]:
    if len(distinct.inputs) == len(distinct.place):
        return submission.rows
    return [submission.rows[i] for i in distinct.place]
