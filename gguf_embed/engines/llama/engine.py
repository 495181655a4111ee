"""The llama.cpp engine: loaded weights, their vocabulary, and contexts that run one batch at a time."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gguf_embed.config import OffloadConfig
from gguf_embed.engines.base import ContextSpec, EngineInfo, ImageSpec
from gguf_embed.engines.llama import api
from gguf_embed.engines.llama import vocabulary as words
from gguf_embed.engines.llama.batch import BatchBuffers
from gguf_embed.engines.llama.chunks import cut_parts, pool_rows
from gguf_embed.errors import EngineFailure, InvalidRequest, ModelFileError
from gguf_embed.gguf_file.constants import POOLING_NUMBERS
from gguf_embed.gguf_file.token_rows import PairRows
from gguf_embed.types import FloatMatrix, Pooling, Vocabulary

if TYPE_CHECKING:
    from gguf_embed.engines.llama.images import ImageContext

supports_gpu = api.supports_gpu
retype_to_bf16 = api.retype_to_bf16
use_amx_gemm = api.use_amx_gemm
n_amx_multiplications = api.n_amx_multiplications


def computes_bf16_faster(use_amx: bool) -> bool:
    """Whether BF16 weights run faster here than F16 and F32, and as exactly.

    Only on AMX tiles. ggml's AVX-512 BF16 rounds every activation to 8 bits, so that a text's vector depends on the
    batch around it (cosine 0.99997), and on CPUs that have AMX it is slower than F16 (docs/benchmarks.md).
    """
    return use_amx and api.has_amx_gemm()


MAX_UBATCH_TOKENS = 512
"""A causal model computes long texts in parts of this many tokens: its compute buffers grow with the part."""


@dataclass(frozen=True, slots=True)
class LlamaEngineConfig:
    """One model file and how to load it."""

    path: Path
    offload: OffloadConfig = field(default_factory=OffloadConfig)
    rank_head: bool = False  # the file has a classification head; without one llama.cpp would score with noise
    labels: tuple[str, ...] = ()  # of the head's numbers
    pair_rows: PairRows | None = None  # of a model that knows a pair's second text by its token type


class LlamaEngine:
    """Loaded weights. Contexts share them. Methods may be called from any thread; `close` after all contexts closed."""

    def __init__(self, config: LlamaEngineConfig) -> None:
        """Loads the weights (seconds for large files). Raises `ModelFileError` with one clear reason."""
        self._config = config
        with ExitStack() as stack:
            self._model = api.load_model(config.path, config.offload)
            stack.callback(api.free_model, self._model)
            self._vocab = api.vocabulary_of(self._model)
            self._facts = api.model_facts(self._model)
            if self._facts.has_encoder_and_decoder:
                raise ModelFileError(f"{config.path.name} is an encoder-decoder model, which gives no text embeddings")
            self.info = self._read_info()
            self._stack = stack.pop_all()

    def _read_info(self) -> EngineInfo:
        facts, vocabulary = self._facts, self.vocabulary()
        architecture = api.read_metadata(self._model, "general.architecture") or "unknown"
        pooling_code = api.read_metadata(self._model, f"{architecture}.pooling_type")
        by_code = {str(code): pooling for pooling, code in POOLING_NUMBERS.items()}

        def text_of(token: int | None) -> str:
            return "" if token is None else vocabulary.entries[token]

        return EngineInfo(
            architecture=architecture,
            description=api.describe(self._model),
            n_embd=facts.n_embd,
            n_vocab=facts.n_vocab,
            n_ctx_train=facts.n_ctx_train,
            n_params=facts.n_params,
            size_bytes=facts.size_bytes,
            pooling=by_code.get(pooling_code or ""),
            causal=self._probe_memory(),
            n_cls_out=facts.n_cls_out if self._config.rank_head else 0,
            vocab_type=api.vocabulary_code(self._vocab),
            bos_token=text_of(vocabulary.bos_id),
            eos_token=text_of(vocabulary.eos_id),
            labels=self._config.labels,
            has_second_text=self._config.rank_head and self._config.pair_rows is not None,
        )

    @property
    def pair_rows(self) -> PairRows | None:
        return self._config.pair_rows

    @property
    def runs_in_parts(self) -> bool:
        """Whether a text may be computed piece by piece: it has a KV memory, and no token looks ahead.

        A decoder whose file says that attention is not causal (gte-Qwen2) needs each batch whole: llama.cpp asserts it.
        """
        key = f"{self.info.architecture}.attention.causal"
        return self.info.causal and api.read_metadata(self._model, key) != "false"

    def _probe_memory(self) -> bool:
        """Only a context knows whether the model keeps a KV cache: open the smallest one and ask."""
        params = api.ContextParams(n_tokens=32, n_ubatch=32, n_sequences=1, pooling=Pooling.NONE, flash_attention=False)
        context = api.new_context(self._model, params)
        try:
            return api.has_memory(context)
        finally:
            api.free_context(context)

    def vocabulary(self) -> Vocabulary:
        return words.read_vocabulary(self._model)

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        return words.tokenize(self._vocab, text.encode("utf-8", "replace"), add_special, parse_special)

    def token_bytes(self, token: int) -> bytes:
        self._check_known([token])
        return words.token_bytes(self._vocab, token)

    def detokenize(self, tokens: Sequence[int]) -> str:
        self._check_known(tokens)
        return words.detokenize(self._vocab, tokens).decode("utf-8", "replace")

    def _check_known(self, tokens: Sequence[int]) -> None:
        """llama.cpp ends the process over an id outside its vocabulary."""
        for token in tokens:
            if not 0 <= token < self.info.n_vocab:
                raise InvalidRequest(
                    f"token id {token} is not in the model's vocabulary of {self.info.n_vocab}", "tokens"
                )

    def open_context(self, spec: ContextSpec) -> LlamaContext:
        if spec.pooling is Pooling.RANK and not self.info.n_cls_out:
            raise ModelFileError(
                f"{self._config.path.name} has no rank head, so --pooling rank cannot work: use a reranker's GGUF"
            )
        return LlamaContext(self, self._model, spec)

    def open_images(self, spec: ImageSpec) -> ImageContext:
        """The file's vision tower, `spec.mmproj`, with this model behind it. Raises `ModelFileError`."""
        from gguf_embed.engines.llama.images import ImageContext  # loads another library of llama.cpp's

        if not self.runs_in_parts:
            raise ModelFileError(
                f"{self._config.path.name} reads a text as a whole, so no images can be put between its tokens: "
                "--mmproj needs a causal decoder"
            )
        return ImageContext(self.info, self._model, spec)

    def close(self) -> None:
        self._stack.close()


class LlamaContext:
    """One llama.cpp context with its batch arrays. After opening it belongs to one thread."""

    def __init__(self, engine: LlamaEngine, model: api.Handle, spec: ContextSpec) -> None:
        if not 1 <= spec.max_sequences <= api.MAX_SEQUENCES:
            raise ValueError(f"max_sequences is {spec.max_sequences}, llama.cpp takes 1 to {api.MAX_SEQUENCES}")
        self.spec = spec
        self._info = engine.info
        # a decoder's logits moved by 0.05 with flash attention and F16 memory, by 1e-5 without (tiny Qwen3 reranker)
        scores = engine.info.causal and spec.pooling is Pooling.RANK
        self._reads_last = engine.runs_in_parts and spec.pooling in (Pooling.LAST, Pooling.RANK)
        # llama.cpp pools within one part only, so token rows are asked for and pooled here
        self._reads_rows = engine.runs_in_parts and not self._reads_last and spec.max_tokens > MAX_UBATCH_TOKENS
        in_parts = self._reads_last or self._reads_rows
        self._context = api.new_context(
            model,
            api.ContextParams(
                n_tokens=spec.max_tokens,
                n_ubatch=min(spec.max_tokens, MAX_UBATCH_TOKENS) if in_parts else spec.max_tokens,
                n_sequences=spec.max_sequences,
                pooling=Pooling.NONE if self._reads_rows else spec.pooling,
                flash_attention=spec.flash_attention and not scores,
                full_memory=scores,
            ),
        )
        self._buffers = BatchBuffers(spec.max_tokens)
        self._pairs = engine.pair_rows if self._info.has_second_text and spec.pooling is Pooling.RANK else None
        self._n_threads = 0
        self._released_tokens = 0  # the largest batch whose logits were given back
        self._closing = threading.Lock()

    def embed(self, batch: Sequence[Sequence[int]], n_threads: int) -> FloatMatrix:
        if self._context is None:
            raise EngineFailure("this context is closed")
        n_tokens = self._check(batch)
        if n_threads != self._n_threads:
            api.set_threads(self._context, n_threads)
            self._n_threads = n_threads
        self._check_ids(batch)
        if self._reads_rows:
            return pool_rows(self._rows_in_parts(batch), list(map(len, batch)), self.spec.pooling)
        code = self._run(batch)
        if code != 0:
            raise EngineFailure(f"llama.cpp refused a batch of {len(batch)} texts, {n_tokens} tokens (code {code})")
        self._release_logits(n_tokens)
        if self.spec.pooling is Pooling.NONE:
            rows = np.empty((n_tokens, self._info.n_embd), np.float32)
            copied = api.copy_token_rows(self._context, rows)
        else:
            rows = np.empty((len(batch), self._row_width()), np.float32)
            copied = api.copy_sequence_rows(self._context, rows)
        if not copied:
            raise EngineFailure(f"llama.cpp gave no embeddings for a batch of {len(batch)} texts, {n_tokens} tokens")
        return rows

    def _run(self, batch: Sequence[Sequence[int]]) -> int:
        """llama.cpp's code: 0 when all went well."""
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
        """Only the last token of each text is read, so all others go to memory without rows.

        llama.cpp computes logits over the whole vocabulary for every token of a batch that gives rows: for a small
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
        """All token rows, float32[n_tokens, n_embd], a part at a time.

        llama.cpp holds logits over the whole vocabulary for every row that one call gives, and keeps the room for the
        largest: 3,000 tokens of a vocabulary of 152,000 took 1.8 GB of it.
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

    def _release_logits(self, n_tokens: int) -> None:
        """After the first batch of each new size llama.cpp has made a larger buffer."""
        if not self._info.causal and n_tokens > self._released_tokens:
            api.release_logits(self._context, self._info.n_vocab, n_tokens)
            self._released_tokens = n_tokens

    def _row_width(self) -> int:
        return self._info.n_cls_out if self.spec.pooling is Pooling.RANK else self._info.n_embd

    def _check(self, batch: Sequence[Sequence[int]]) -> int:
        """Every size that llama.cpp asserts on. Returns the tokens in all."""
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
        return n_tokens

    def _check_ids(self, batch: Sequence[Sequence[int]]) -> None:
        n_ids = self._info.n_vocab * (1 if self._pairs is None else 2)
        if min(map(min, batch)) < 0 or max(map(max, batch)) >= n_ids:
            raise EngineFailure(f"a token id outside 0..{n_ids - 1} reached the engine")

    def close(self) -> None:
        """Frees it; safe to call twice."""
        with self._closing:
            context, self._context = self._context, None
        if context is not None:
            api.free_context(context)
