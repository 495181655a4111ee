"""One request on one loaded model: check, tokenize, submit, finish."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import TypeVar

import numpy as np

from gguf_embed.errors import InputTooLong, InvalidInput, InvalidRequest, NotSupported
from gguf_embed.metrics import Metrics
from gguf_embed.model_pool.loading import LoadedModel
from gguf_embed.preprocessing import prompt_prefixes as prompts
from gguf_embed.preprocessing.tokens import TokenLimits, prepare, tokenize_input, truncations
from gguf_embed.scheduler.scheduler import Submission
from gguf_embed.service.embed_plan import TokenizePlan, asks_more, check_combination, read_inputs
from gguf_embed.service.embed_result import EmbedPlan, assemble, no_direction
from gguf_embed.service.leased_threads import ModelThreads
from gguf_embed.service.limits import explain
from gguf_embed.types import (
    AppliedPrompt,
    EmbedRequest,
    EmbedResult,
    FloatMatrix,
    Input,
    ModelInfo,
    Pooling,
    Timings,
    TokenizedText,
    Usage,
)
from gguf_embed.vectors import finish

_T = TypeVar("_T")

INLINE_CHARACTERS = 4_000
"""Requests up to this size are tokenized on the event loop (under 2 ms); larger ones in a thread."""

INLINE_PLACED_CHARACTERS = 500
"""The same where tokens are given their places."""

MAX_TOKEN_ROWS = 1_000_000_000
"""Bytes of per-token rows that one request may ask for: they are held until the reply is written."""

MIN_INPUT_TOKENS = 2
"""A text is at least one token and what is put around it: a smaller limit leaves no room for any."""


class GivesScoresOnly(NotSupported):
    """A reranker was asked for vectors, without the pooling that makes them."""


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A loaded model, and what is known of it under the name it is served by."""

    model: LoadedModel
    info: ModelInfo


@dataclass(frozen=True, slots=True)
class Deduplicated:
    """A request's inputs without repetitions: input i is text `place[i]`."""

    inputs: tuple[Input, ...]
    place: tuple[int, ...]


class Inference:
    """Answers requests with models that are held for them. Methods belong to the event loop."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._tokenizers = ModelThreads("tokenize", 2)
        self._placers = ModelThreads("place", 1)  # of its own: it may be busy for seconds

    async def embed(self, served: ServedModel, request: EmbedRequest, load_s: float) -> EmbedResult:
        """Answer the whole request. Raises one `EmbedError`, naming the first input at fault."""
        pooling = _pooling_of(request, served.info)
        check_dimensions(request, served.info.n_scores if pooling is Pooling.RANK else served.info.n_embd)
        if asks_more(request):
            return await self._embed_more(served, request, load_s)
        started_s = time.monotonic()
        prompt = prompts.choose(request.prompt, served.info.prompts)
        distinct = deduplicate(prompts.apply(prompt, request.inputs))
        texts = await self._prepare(served, distinct, request)
        tokenized_s = time.monotonic()
        if pooling is Pooling.NONE:
            _check_rows(sum(len(texts[i].tokens) for i in distinct.place), served.info.n_embd)
        submission = await served.model.scheduler.submit([text.tokens for text in texts], pooling, keep_failures=True)
        if submission.failures:
            first = min(submission.failures)
            raise submission.failures[first].for_input(distinct.place.index(first))
        self._observe_duplicates(distinct)
        timings = Timings(tokenized_s - started_s, submission.queue_s, submission.compute_s, load_s)
        rows, read = _rows_of(submission, distinct), [texts[i] for i in distinct.place]
        if pooling is Pooling.NONE:  # up to 1 GB, which takes a second to put together
            return await self._tokenizers.run(lambda: _result(served.info, request, read, rows, (prompt, timings)))
        return _result(served.info, request, read, rows, (prompt, timings))

    async def _embed_more(self, served: ServedModel, request: EmbedRequest, load_s: float) -> EmbedResult:
        """The same for a request that `asks_more`."""
        model, info = served.model, served.info
        pooling = _pooling_of(request, info)
        check_combination(request, info, pooling)
        started_s = time.monotonic()
        prompt = prompts.choose(request.prompt, info.prompts)
        distinct = deduplicate(prompts.apply(prompt, request.inputs))
        reader = _reader_of(served, request, len(prompt.text) if prompt else 0)
        threads = self._placers if reader.places else self._tokenizers
        texts = await self._tokenizing(distinct, lambda: read_inputs(distinct.inputs, reader), threads)
        tokenized_s = time.monotonic()
        read = EmbedPlan(request, distinct.place, texts, model.engine, pooling, _normalization(request, info))
        run_pooling = Pooling.NONE if request.spans else pooling
        if run_pooling is Pooling.NONE:
            _check_rows(read.n_held_rows, info.n_embd)
        submission = await model.scheduler.submit(read.sequences, run_pooling, keep_failures=True)
        if refusal := next((e for e in submission.failures.values() if isinstance(e, NotSupported)), None):
            raise refusal  # the model refuses the request, whatever its texts are
        self._observe_duplicates(distinct)
        timings = Timings(tokenized_s - started_s, submission.queue_s, submission.compute_s, load_s)
        return await self._tokenizers.run(lambda: _gathered_result(info, read, submission, (prompt, timings)))

    def _observe_duplicates(self, distinct: Deduplicated) -> None:
        if len(distinct.inputs) < len(distinct.place):
            self._metrics.observe_duplicates(len(distinct.place) - len(distinct.inputs))

    async def _prepare(self, served: ServedModel, distinct: Deduplicated, request: EmbedRequest) -> list[TokenizedText]:
        model = served.model
        truncate = model.config.truncate if request.truncate is None else request.truncate
        limits = _limits_of(request, model.limits)

        def run() -> list[TokenizedText]:
            try:
                return prepare(distinct.inputs, model.tokenizer, limits, truncate=truncate)
            except InputTooLong as error:
                raise explain(error, request, served.info, model.tokenizer) from None

        return await self._tokenizing(distinct, run)

    async def _tokenizing(
        self, distinct: Deduplicated, run: Callable[[], _T], threads: ModelThreads | None = None
    ) -> _T:
        """`tokenizing` whose errors name the input as the request counts."""
        n_characters = sum(map(len, distinct.inputs))
        try:
            if threads is not None and n_characters > INLINE_PLACED_CHARACTERS:
                return await threads.run(run)
            return await self.tokenizing(n_characters, run)
        except (InvalidInput, InputTooLong) as error:
            raise error.for_input(distinct.place.index(error.index)) from error

    async def tokenizing(self, n_characters: int, run: Callable[[], _T]) -> _T:
        """Run it here when there is little to tokenize, else on a thread, so that the event loop goes on."""
        if n_characters <= INLINE_CHARACTERS:
            return run()
        return await self._tokenizers.run(run)

    async def reading_tokens(self, tokens: Sequence[int], run: Callable[[], _T]) -> _T:
        """The same where the engine is asked about `tokens`: 6 microseconds each."""
        return await self.tokenizing(8 * len(tokens), run)

    async def tokenize(
        self, model: LoadedModel, content: Input, *, add_special: bool, parse_special: bool
    ) -> list[int]:
        """The ids that this server would run. Without `parse_special`, "[SEP]" in a text is ordinary characters."""
        return await self._tokenizers.run(lambda: _tokenize(model, content, add_special, parse_special))

    def close(self) -> None:
        self._tokenizers.close()
        self._placers.close()


def _tokenize(model: LoadedModel, content: Input, add_special: bool, parse_special: bool) -> list[int]:
    parts = (content,) if isinstance(content, str) else content
    tokens: list[int] = []
    for position, part in enumerate(parts):
        if not isinstance(part, str):
            tokens += tokenize_input((part,), model.tokenizer, model.limits.n_vocab)
        elif parse_special:
            tokens += model.tokenizer.encode(part, add_special=add_special and position == 0)
        else:
            tokens += model.engine.tokenize(part, add_special=add_special and position == 0, parse_special=False)
    return tokens


def _reader_of(served: ServedModel, request: EmbedRequest, n_prefix: int) -> TokenizePlan:
    """How the texts of a request that `asks_more` are read."""
    model, in_windows = served.model, request.long_input == "chunk_mean"
    return TokenizePlan(
        tokenizer=model.tokenizer,
        limits=_limits_of(request, model.limits),
        truncate=not in_windows and (model.config.truncate if request.truncate is None else request.truncate),
        n_prefix=n_prefix,
        in_windows=in_windows,
        with_offsets=request.return_tokens or bool(request.spans),
        keeps_errors=request.on_error == "skip",
        explain=lambda error: explain(error, request, served.info, model.tokenizer),
    )


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
    vectors = finish(np.concatenate(rows), _normalization(request, info), request.dimensions)
    if request.dimensions is not None and pooling not in (Pooling.NONE, Pooling.RANK):
        empty = np.flatnonzero(~vectors.any(axis=1))
        if len(empty):
            raise no_direction(int(empty[0]), request.dimensions)
    return EmbedResult(
        model=info,
        pooling=pooling,
        vectors=vectors,
        row_offsets=(0, *accumulate(len(matrix) for matrix in rows)),
        usage=Usage(sum(len(text.tokens) for text in texts)),
        truncated=truncations(texts),
        timings=how[1],
        prompt=how[0],
    )


def _gathered_result(
    info: ModelInfo, read: EmbedPlan, submission: Submission, how: tuple[AppliedPrompt | None, Timings]
) -> EmbedResult:
    """Of a request that `asks_more`. Any thread: thousands of vectors, or millions of tokens, take their time."""
    gathered = assemble(read, submission)
    result = _result(info, read.request, gathered.texts, gathered.rows, how)
    return replace(result, tokens=gathered.tokens, windowed=gathered.windowed, failures=gathered.failures)


def _normalization(request: EmbedRequest, info: ModelInfo) -> int:
    """What is done to each vector; token rows and scores are given as they are."""
    if _pooling_of(request, info) in (Pooling.NONE, Pooling.RANK):
        return -1
    return info.embd_normalize if request.embd_normalize is None else request.embd_normalize


def _pooling_of(request: EmbedRequest, info: ModelInfo) -> Pooling:
    pooling = info.pooling if request.pooling is None else request.pooling
    if pooling is Pooling.RANK and not info.n_scores:
        raise NotSupported("this model has no rank head, so it cannot answer with pooling rank: ask a reranker")
    if pooling is Pooling.RANK and request.pooling is None and not request.scores:
        raise GivesScoresOnly(
            f"model {info.name!r} is a reranker, so it gives scores and no vectors unless asked: POST /rerank, or "
            'POST /v1/embeddings with "pooling": "mean", "cls" or "last" for vectors of the same model'
        )
    return pooling


def check_dimensions(request: EmbedRequest, width: int) -> None:
    """Raises `InvalidRequest` for more numbers than a row has."""
    if request.dimensions is not None and not 1 <= request.dimensions <= width:
        raise InvalidRequest(
            f"dimensions is {request.dimensions}, this model has {width}: ask for 1 to {width}",
            "dimensions",
        )


def _check_rows(n_rows: int, n_embd: int) -> None:
    size_bytes = 4 * n_embd * n_rows
    if size_bytes > MAX_TOKEN_ROWS:
        raise InvalidRequest(
            f"one vector per token makes {size_bytes:,} bytes, the limit per request is {MAX_TOKEN_ROWS:,}: "
            "send fewer texts in one request"
        )


def deduplicate(inputs: Sequence[Input]) -> Deduplicated:
    """Equal inputs are computed once."""
    first: dict[Input, int] = {}
    place = tuple(first.setdefault(prompt, len(first)) for prompt in inputs)
    return Deduplicated(tuple(first), place)


def _rows_of(submission: Submission, distinct: Deduplicated) -> Sequence[FloatMatrix]:
    if len(distinct.inputs) == len(distinct.place):
        return submission.rows
    return [submission.rows[i] for i in distinct.place]
