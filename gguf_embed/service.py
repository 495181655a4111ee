"""The use cases of one loaded model: embed, tokenise, say what it is. No HTTP, no JSON."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from gguf_embed.errors import InvalidRequest, ModelNotFound, NotSupported
from gguf_embed.metrics import Metrics
from gguf_embed.registry.loading import LoadedModel
from gguf_embed.scheduler.scheduler import Submission
from gguf_embed.tokens import TokenLimits, closing_ids, prepare, tokenize_prompt
from gguf_embed.types import (
    EmbedRequest,
    EmbedResult,
    FloatMatrix,
    ModelInfo,
    Pooling,
    Prompt,
    ServiceState,
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


@dataclass(frozen=True, slots=True)
class _Distinct:
    """A request's inputs without repetitions: input i is text `place[i]`."""

    inputs: tuple[Prompt, ...]
    place: tuple[int, ...]


class EmbedService:
    """Answers requests with one model. Methods belong to the event loop, `close` to any other thread."""

    def __init__(self, model: LoadedModel, metrics: Metrics) -> None:
        self._loaded = model
        self._metrics = metrics
        vocabulary = model.engine.vocabulary()
        self._limits = TokenLimits(len(vocabulary.entries), model.info.max_input_tokens, closing_ids(vocabulary))
        self._tokenizers = ThreadPoolExecutor(max_workers=2, thread_name_prefix="tokenize")

    async def embed(self, request: EmbedRequest) -> EmbedResult:
        """Answer the whole request. Raises one `EmbedError`, naming the first input at fault."""
        self.resolve(request.model)
        pooling = self._pooling_of(request)
        self._check_dimensions(request)
        started_s = time.monotonic()
        distinct = _without_repetitions(request.inputs)
        texts = await self._prepare(distinct, request)
        tokenized_s = time.monotonic()
        self._check_rows(texts, pooling)
        submission = await self._loaded.scheduler.submit([text.tokens for text in texts], pooling)
        if len(distinct.inputs) < len(request.inputs):
            self._metrics.observe_duplicates(len(request.inputs) - len(distinct.inputs))
        timings = Timings(tokenized_s - started_s, submission.queue_s, submission.compute_s)
        return self._result(request, [texts[i] for i in distinct.place], _rows_of(submission, distinct), timings)

    def _result(
        self, request: EmbedRequest, texts: Sequence[TokenizedText], rows: Sequence[FloatMatrix], timings: Timings
    ) -> EmbedResult:
        info, pooling = self._loaded.info, self._pooling_of(request)
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
            timings=timings,
        )

    async def _prepare(self, distinct: _Distinct, request: EmbedRequest) -> list[TokenizedText]:
        truncate = self._loaded.config.truncate if request.truncate is None else request.truncate

        def run() -> list[TokenizedText]:
            return prepare(distinct.inputs, self._loaded.tokenizer, self._limits, truncate=truncate)

        if sum(map(len, distinct.inputs)) <= INLINE_CHARACTERS:
            return run()
        return await asyncio.get_running_loop().run_in_executor(self._tokenizers, run)

    def _pooling_of(self, request: EmbedRequest) -> Pooling:
        served = self._loaded.info.pooling
        pooling = served if request.pooling is None else request.pooling
        if pooling is not served and Pooling.RANK in (pooling, served):
            raise NotSupported(
                f"this model is served with pooling {served}, so it cannot answer with pooling {pooling}"
            )
        return pooling

    def _check_dimensions(self, request: EmbedRequest) -> None:
        n_embd = self._loaded.info.n_embd
        if request.dimensions is not None and not 1 <= request.dimensions <= n_embd:
            raise InvalidRequest(
                f"dimensions is {request.dimensions}, this model has {n_embd}: ask for 1 to {n_embd}", "dimensions"
            )

    def _check_rows(self, texts: Sequence[TokenizedText], pooling: Pooling) -> None:
        size_bytes = 4 * self._loaded.info.n_embd * sum(len(text.tokens) for text in texts)
        if pooling is Pooling.NONE and size_bytes > MAX_TOKEN_ROWS:
            raise InvalidRequest(
                f"one vector per token makes {size_bytes:,} bytes, the limit per request is {MAX_TOKEN_ROWS:,}: "
                "send fewer texts in one request"
            )

    async def tokenize(self, content: Prompt, *, add_special: bool, parse_special: bool) -> list[int]:
        """The ids that this server would run. Without `parse_special`, "[SEP]" in a text is ordinary characters."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._tokenizers, self._tokenize, content, add_special, parse_special)

    def _tokenize(self, content: Prompt, add_special: bool, parse_special: bool) -> list[int]:
        tokenizer, engine = self._loaded.tokenizer, self._loaded.engine
        parts = (content,) if isinstance(content, str) else content
        tokens: list[int] = []
        for position, part in enumerate(parts):
            if not isinstance(part, str):
                tokens += tokenize_prompt((part,), tokenizer, self._limits.n_vocab)
            elif parse_special:
                tokens += tokenizer.encode(part, add_special=add_special and position == 0)
            else:
                tokens += engine.tokenize(part, add_special=add_special and position == 0, parse_special=False)
        return tokens

    def token_bytes(self, token: int) -> bytes:
        return self._loaded.engine.token_bytes(token)

    async def detokenize(self, tokens: Sequence[int]) -> str:
        return self._loaded.engine.detokenize(tokens) if tokens else ""

    def model(self) -> ModelInfo:
        return self._loaded.info

    def resolve(self, name: str | None) -> ModelInfo:
        """The model that answers for `name`: any name, unless names are strict."""
        info = self._loaded.info
        if name is None or not self._loaded.config.strict_name or name in (info.name, *info.aliases):
            return info
        raise ModelNotFound(f"model {name!r} is not served here: this server has {info.name!r}")

    def state(self) -> ServiceState:
        queue, config = self._loaded.scheduler.state(), self._loaded.scheduler.config
        return ServiceState(
            status="failed" if queue.failure else "draining" if queue.closed else "ok",
            detail=f"a worker has failed ({queue.failure}): restart the server" if queue.failure else "",
            queued_texts=queue.n_texts,
            queued_tokens=queue.n_tokens,
            running_texts=queue.n_running_texts,
            n_workers=config.n_workers,
            n_threads=config.n_threads,
        )

    def close(self) -> None:
        """Answer what was accepted, then free everything. Blocks."""
        self._loaded.close()
        self._tokenizers.shutdown()


def _without_repetitions(inputs: Sequence[Prompt]) -> _Distinct:
    """Equal inputs are computed once."""
    first: dict[Prompt, int] = {}
    place = tuple(first.setdefault(prompt, len(first)) for prompt in inputs)
    return _Distinct(tuple(first), place)


def _rows_of(submission: Submission, distinct: _Distinct) -> Sequence[FloatMatrix]:
    if len(distinct.inputs) == len(distinct.place):
        return submission.rows
    return [submission.rows[i] for i in distinct.place]
