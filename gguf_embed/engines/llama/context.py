"""A llama.cpp context, which runs one batch at a time over loaded weights."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gguf_embed.engines.base import ContextSpec, EngineInfo
from gguf_embed.engines.llama import api
from gguf_embed.engines.llama.batch import BatchBuffers
from gguf_embed.engines.llama.chunks import cut_parts, pool_rows
from gguf_embed.errors import EngineFailure
from gguf_embed.gguf_file.token_rows import PairRows
from gguf_embed.types import SCORES, TOKENS, FloatMatrix, OutputSpec, Pooling
from gguf_embed.vectors import Rows

MAX_UBATCH_TOKENS = 512
"""A causal model computes long texts in parts of this many tokens, because compute buffers grow with the part."""


@dataclass(frozen=True, slots=True)
class LlamaContextSpec(ContextSpec):
    """A context spec that also says whether to use llama.cpp's flash attention."""

    flash_attention: bool = True

    @property
    def pooling(self) -> Pooling:
        """llama.cpp's pooling for the output."""
        return Pooling(self.output.pooling_name)


@dataclass(frozen=True, slots=True)
class FlashContexts:
    """Implements `ContextPlanner`. Uses flash attention for batches from a certain size."""

    max_tokens: int
    max_sequences: int
    long_tokens: int
    flash_min_tokens: int | None  # use flash attention for batches of at least this many tokens; None: never

    def spec(self, output: OutputSpec, n_tokens: int, *, long: bool) -> LlamaContextSpec:
        flash = self.flash_min_tokens is not None and n_tokens >= self.flash_min_tokens
        if long:
            return LlamaContextSpec(output, self.long_tokens, 1, flash)
        room = self.max_tokens
        if not flash and self.flash_min_tokens is not None:
            room = min(room, self.flash_min_tokens)  # larger batches use flash attention
        return LlamaContextSpec(output, room, min(self.max_sequences, room), flash)


@dataclass(frozen=True, slots=True)
class LoadedWeights:
    """What all contexts of a model share."""

    model: api.Handle
    info: EngineInfo
    runs_in_parts: bool  # a text may be computed part by part
    pair_rows: PairRows | None


class LlamaContext:
    """One llama.cpp context with its batch arrays. Belongs to one thread after it was opened."""

    def __init__(self, weights: LoadedWeights, spec: LlamaContextSpec) -> None:
        if not 1 <= spec.max_sequences <= api.MAX_SEQUENCES:
            raise ValueError(f"max_sequences is {spec.max_sequences}, llama.cpp takes 1 to {api.MAX_SEQUENCES}")
        self.spec = spec
        self._info = weights.info
        pooling = spec.pooling
        # a decoder's logits varied by 0.05 with flash attention and F16 memory, by 1e-5 without (tiny Qwen3 reranker)
        scores = weights.info.causal and (pooling is Pooling.RANK or spec.output.for_scores)
        self._reads_last = weights.runs_in_parts and pooling in (Pooling.LAST, Pooling.RANK)
        # llama.cpp pools within one part only, so token rows are requested and pooled here
        self._reads_rows = weights.runs_in_parts and not self._reads_last and spec.max_tokens > MAX_UBATCH_TOKENS
        in_parts = self._reads_last or self._reads_rows
        self._context = api.new_context(
            weights.model,
            api.ContextParams(
                n_tokens=spec.max_tokens,
                n_ubatch=min(spec.max_tokens, MAX_UBATCH_TOKENS) if in_parts else spec.max_tokens,
                n_sequences=spec.max_sequences,
                pooling=Pooling.NONE if self._reads_rows else pooling,
                flash_attention=spec.flash_attention and not scores,
                full_memory=scores,
            ),
        )
        self._buffers = BatchBuffers(spec.max_tokens)
        self._pairs = weights.pair_rows if self._info.has_second_text and pooling is Pooling.RANK else None
        self._n_threads = 0
        self._released_tokens = 0  # size of the largest batch whose logits were released
        self._closing = threading.Lock()

    def embed(self, batch: Sequence[Sequence[int]], n_threads: int) -> Rows:
        if self._context is None:
            raise EngineFailure("this context is closed")
        n_tokens = self._check(batch)
        if n_threads != self._n_threads:
            api.set_threads(self._context, n_threads)
            self._n_threads = n_threads
        if self._reads_rows:
            rows = pool_rows(self._rows_in_parts(batch), list(map(len, batch)), self.spec.pooling)
        else:
            rows = self._rows_at_once(batch, n_tokens)
        if self.spec.output.kind == TOKENS:
            return Rows.per_token(rows, list(map(len, batch)))
        return Rows.one_each(self.spec.output.kind, rows)

    def _rows_at_once(self, batch: Sequence[Sequence[int]], n_tokens: int) -> FloatMatrix:
        code = self._run(batch)
        if code != 0:
            raise EngineFailure(f"llama.cpp refused a batch of {len(batch)} texts, {n_tokens} tokens (code {code})")
        if not self._info.causal and n_tokens > self._released_tokens:
            # llama.cpp has allocated a larger buffer for the first batch of this size
            api.release_logits(self._context, self._info.n_vocab, n_tokens)
            self._released_tokens = n_tokens
        if self.spec.output.kind == TOKENS:
            rows = np.empty((n_tokens, self._info.n_embd), np.float32)
            copied = api.copy_token_rows(self._context, rows)
        else:
            width = self._info.n_cls_out if self.spec.output.kind == SCORES else self._info.n_embd
            rows = np.empty((len(batch), width), np.float32)
            copied = api.copy_sequence_rows(self._context, rows)
        if not copied:
            raise EngineFailure(f"llama.cpp returned no rows for a batch of {len(batch)} texts, {n_tokens} tokens")
        return rows

    def _run(self, batch: Sequence[Sequence[int]]) -> int:
        """Run a batch. Returns 0, or llama.cpp's error code."""
        if not self._info.causal:
            if self._pairs is not None and max(map(max, batch)) >= self._info.n_vocab:
                ids = np.fromiter((token for tokens in batch for token in tokens), np.int64)
                return api.encode(self._context, self._buffers.fill_rows(batch, self._pairs.take(ids)))
            return api.encode(self._context, self._buffers.fill(batch))
        api.clear_memory(self._context)
        if not self._reads_last:
            return api.decode(self._context, self._buffers.fill(batch))
        return self._run_up_to_last(batch)

    def _run_up_to_last(self, batch: Sequence[Sequence[int]]) -> int:
        """Compute a row for the last token of each text only; the other tokens just fill the KV memory.

        llama.cpp computes logits over the whole vocabulary for every token of a batch that returns rows. For a small
        model with a large vocabulary they are most of the work, and gigabytes for a long text.
        """
        starts = [len(tokens) - 1 for tokens in batch]
        if any(starts):
            api.set_embeddings(self._context, False)
            code = api.decode(self._context, self._buffers.fill([tokens[:-1] for tokens in batch], output=False))
            api.set_embeddings(self._context, True)
            if code != 0:
                return code
        return api.decode(self._context, self._buffers.fill([tokens[-1:] for tokens in batch], starts))

    def _rows_in_parts(self, batch: Sequence[Sequence[int]]) -> FloatMatrix:
        """All token rows, float32[n_tokens, n_embd], computed part by part.

        llama.cpp holds logits over the whole vocabulary for every row that a call returns, and keeps the largest
        buffer: 1.8 GB for 3,000 tokens with a vocabulary of 152,000.
        """
        rows = np.empty((sum(map(len, batch)), self._info.n_embd), np.float32)
        api.clear_memory(self._context)
        begin = 0
        for part in cut_parts(list(map(len, batch)), MAX_UBATCH_TOKENS):
            tokens = [text[own.start : own.stop] for text, own in zip(batch, part, strict=True)]
            end = begin + sum(map(len, tokens))
            code = api.decode(self._context, self._buffers.fill(tokens, [own.start for own in part]))
            if code != 0 or not api.copy_token_rows(self._context, rows[begin:end]):
                raise EngineFailure(f"llama.cpp refused {end - begin} of {len(rows)} tokens (code {code})")
            begin = end
        return rows

    def _check(self, batch: Sequence[Sequence[int]]) -> int:
        """Check all sizes and ids that llama.cpp asserts on. Returns the total number of tokens."""
        if not 1 <= len(batch) <= self.spec.max_sequences:
            raise EngineFailure(f"a batch of {len(batch)} texts in a context for {self.spec.max_sequences}")
        longest, n_tokens = max(map(len, batch)), sum(map(len, batch))
        if min(map(len, batch)) < 1:
            raise EngineFailure("a text without tokens in a batch")
        if n_tokens > self.spec.max_tokens or longest > self._info.n_ctx_train:
            raise EngineFailure(
                f"a batch of {n_tokens} tokens, the longest text {longest}: this context takes {self.spec.max_tokens}, "
                f"the model {self._info.n_ctx_train}"
            )
        n_ids = self._info.n_vocab * (1 if self._pairs is None else 2)
        if min(map(min, batch)) < 0 or max(map(max, batch)) >= n_ids:
            raise EngineFailure(f"a token id outside 0..{n_ids - 1} reached the engine")
        return n_tokens

    def close(self) -> None:
        """Free the context. Safe to call twice."""
        with self._closing:
            context, self._context = self._context, None
        if context is not None:
            api.free_context(context)
