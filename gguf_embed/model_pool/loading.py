"""From a model file to something that answers: checks, weights, tokenizer, warm-up, workers."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from gguf_embed.config import ComputeConfig, ModelConfig
from gguf_embed.engines.base import Engine
from gguf_embed.engines.llama import engine as llama
from gguf_embed.engines.select import open_engine, runs_in_llama
from gguf_embed.errors import ConfigError, ModelFileError
from gguf_embed.gguf_file.facts import (
    check_can_embed,
    file_type_name,
    has_rank_head,
    pooling_type,
    rerank_template,
)
from gguf_embed.gguf_file.header import GgufHeader, read_header
from gguf_embed.model_pool.bf16_copy import bf16_copy, wants_bf16
from gguf_embed.model_pool.calibration import TEXT_TOKENS, Calibration, calibrate
from gguf_embed.model_pool.cpu_count import n_processors
from gguf_embed.model_pool.images import open_image_worker
from gguf_embed.model_store.locate import LocatedModel
from gguf_embed.preprocessing.tokens import Tokenizer, TokenLimits, choose_tokenizer, closing_ids
from gguf_embed.scheduler.batching import BatchLimits
from gguf_embed.scheduler.image_worker import ImageWorker
from gguf_embed.scheduler.queue import QueueConfig
from gguf_embed.scheduler.scheduler import BatchObserver, Scheduler
from gguf_embed.scheduler.worker import ContextPlan
from gguf_embed.types import ModelInfo, Pooling

GPU_BATCH_TOKENS = 2048
"""Tokens per batch when layers run on a GPU. Not measured yet: set -ub to try others."""

SMALL_CONTEXT_TOKENS = 1024
"""Texts up to this long run on every worker; longer ones on one worker that has a context for the longest."""

LOGITS_BYTES = 2**30
"""llama.cpp writes 4 bytes per token of a batch and entry of the vocabulary in every context of a decoder, though
embedding never reads them: 155 MB for 256 tokens of 151,000 entries. All workers' together stay below this."""

MAX_SEQUENCES = 64

STATIC_BATCH_TOKENS = 8192
STATIC_MAX_SEQUENCES = 1024
"""A static model's batch: so many texts that handing them over costs little, few enough to be done in a millisecond."""

STATIC_TOKENS_PER_S = 5_000_000.0
"""A first estimate of one worker's speed; the queue measures the real one."""


@dataclass(frozen=True, slots=True)
class ExecutionPlan:
    """What warm-up chose, for the banner."""

    n_threads: int
    n_workers: int
    batch_tokens: int
    alone_threads: int
    flash: str
    kernels: str
    measured: bool


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model that answers. `close` blocks until accepted work is done."""

    config: ModelConfig
    info: ModelInfo
    execution: ExecutionPlan
    engine: Engine
    tokenizer: Tokenizer
    limits: TokenLimits  # of one text
    scheduler: Scheduler
    images: ImageWorker | None = None  # of a model with a vision tower

    def close(self) -> None:
        if self.images is not None:
            self.images.close()
        self.scheduler.close()
        self.engine.close()


def load_model(
    located: LocatedModel,
    config: ModelConfig,
    cache_dir: Path,
    observer: BatchObserver,
    report: Callable[[str], None],
) -> LoadedModel:
    """Load, warm up and start the workers; seconds for large files. `report` gets one line per thing worth knowing.

    Raises `ModelFileError` or `ConfigError` with one clear line; nothing stays open then.
    """
    header = read_header(located.path)
    check_can_embed(header)
    pooling = choose_pooling(header, config.pooling, report)
    in_llama = runs_in_llama(header)
    if in_llama:
        path, weights = _choose_weights(header, config.compute, cache_dir, report)
    else:
        path, weights = header.path, file_type_name(header)
        _check_static(header, pooling, config.compute, report)
    with ExitStack() as stack:
        engine = open_engine(path, header, config.compute)
        stack.callback(engine.close)
        tokenizer = choose_tokenizer(engine, config.tokenizer)
        info = _describe(engine, located, config, header, pooling)
        info = replace(info, weights_type=weights, tokenizer=tokenizer.name)
        _report_limit(info, config, report)
        images = open_image_worker(engine, config, info)
        if images is not None:
            stack.callback(images.close)
        plan, queue, execution = _set_up(engine, info, config) if in_llama else _set_up_static(info, config)
        scheduler = Scheduler(engine, queue, plan, observer)
        scheduler.start()
        stack.pop_all()
    vocabulary = engine.vocabulary()
    limits = TokenLimits(len(vocabulary.entries), info.max_input_tokens, closing_ids(vocabulary))
    return LoadedModel(config, info, execution, engine, tokenizer, limits, scheduler, images)


def choose_pooling(header: GgufHeader, asked: Pooling | None, report: Callable[[str], None]) -> Pooling:
    """The asked pooling, else the file's, else llama.cpp's none, which is reported: it is seldom what is meant.

    Raises `ModelFileError` for rank without a head, which llama.cpp would answer with noise.
    """
    pooling = asked or pooling_type(header)
    if pooling is Pooling.RANK and not has_rank_head(header):
        raise ModelFileError(f"{header.path} has no rank head, so pooling rank cannot work: use a reranker's GGUF")
    if pooling is None:
        report(
            "the file declares no pooling, so every token gets a vector (none): "
            "--pooling mean, cls or last makes one per text"
        )
    return pooling or Pooling.NONE


def _choose_weights(
    header: GgufHeader, compute: ComputeConfig, cache_dir: Path, report: Callable[[str], None]
) -> tuple[Path, str]:
    """Which file to run and its weights' type; switches the AMX kernels with it."""
    llama.use_amx_gemm(compute.amx)
    file_type = file_type_name(header)
    on_gpu = compute.offload.n_gpu_layers != 0
    fast = llama.computes_bf16_faster(compute.amx)
    if wants_bf16(compute.weights, file_type, on_gpu, fast, scores=has_rank_head(header)):
        try:
            return bf16_copy(header.path, cache_dir, compute.n_threads or n_processors(), report), "BF16"
        except ModelFileError as error:
            if compute.weights == "bf16":
                raise
            report(f"{error}. Running {header.path.name} as it is, slower")
    return header.path, file_type


def _describe(
    engine: Engine, located: LocatedModel, config: ModelConfig, header: GgufHeader, pooling: Pooling
) -> ModelInfo:
    facts = engine.info
    n_ctx = config.n_ctx or facts.n_ctx_train
    name, *aliases = (*config.aliases, located.name) if config.aliases else (located.name,)
    return ModelInfo(
        name=name,
        aliases=tuple(aliases),
        path=located.path,
        architecture=facts.architecture,
        description=facts.description,
        file_type=file_type_name(header),
        weights_type="",
        pooling=pooling,
        embd_normalize=config.embd_normalize,
        n_embd=facts.n_embd,
        n_vocab=facts.n_vocab,
        n_ctx_train=facts.n_ctx_train,
        n_ctx=n_ctx,
        max_input_tokens=min(n_ctx, facts.n_ctx_train),
        n_params=facts.n_params,
        size_bytes=facts.size_bytes,
        vocab_type=facts.vocab_type,
        bos_token=facts.bos_token,
        eos_token=facts.eos_token,
        tokenizer="",
        causal=facts.causal,
        n_scores=facts.n_cls_out,
        labels=facts.labels,
        rerank_template=rerank_template(header) if facts.n_cls_out else "",
        reads_images=config.mmproj is not None,
    )


def _report_limit(info: ModelInfo, config: ModelConfig, report: Callable[[str], None]) -> None:
    if config.n_ctx > info.n_ctx_train:
        report(
            f"-c {config.n_ctx} is more than this model was trained for: "
            f"the true limit is {info.max_input_tokens} tokens per text"
        )
    if info.max_input_tokens < 4:
        raise ConfigError(f"-c {config.n_ctx} leaves no room for a text: use 0 for the model's {info.n_ctx_train}")


def _set_up(engine: Engine, info: ModelInfo, config: ModelConfig) -> tuple[ContextPlan, QueueConfig, ExecutionPlan]:
    """Warm up, measure, and size the workers."""
    compute = config.compute
    on_gpu = compute.offload.n_gpu_layers != 0
    n_threads = compute.n_threads or n_processors()
    n_logits = info.n_vocab if info.causal else 0  # per token; an encoder's are given back
    measured = _calibrate(engine, info, config, n_threads)
    batch_tokens = compute.batch_tokens or (GPU_BATCH_TOKENS if on_gpu else measured.batch_tokens)
    n_workers = compute.n_workers or (1 if on_gpu else affordable_workers(n_threads, batch_tokens, n_logits))
    flash_from = {"on": 0, "off": None, "auto": measured.flash_min_tokens}[compute.flash_attention]
    plan = ContextPlan(
        max_tokens=small_context_tokens(batch_tokens, info.max_input_tokens, n_workers, n_logits),
        max_sequences=MAX_SEQUENCES,
        long_tokens=info.max_input_tokens,
        flash_min_tokens=flash_from,
    )
    queue = QueueConfig(
        limits=BatchLimits(batch_tokens, MAX_SEQUENCES),
        n_workers=n_workers,
        n_threads=n_threads,
        alone_threads=compute.alone_threads or measured.alone_threads,
        max_queued_tokens=config.max_queued_tokens,
        tokens_per_s=measured.tokens_per_s * n_workers,
    )
    flash = "off" if flash_from is None else "on" if flash_from == 0 else f"on from {flash_from} tokens per batch"
    computed = "ggml" if config.warmup else "unchecked"  # without warm-up nothing was computed that could show it
    kernels = "AMX" if llama.n_amx_multiplications() else computed
    return (
        plan,
        queue,
        ExecutionPlan(n_threads, n_workers, batch_tokens, queue.alone_threads, flash, kernels, measured.measured),
    )


def _check_static(header: GgufHeader, pooling: Pooling, compute: ComputeConfig, report: Callable[[str], None]) -> None:
    """Refuse what was asked for and cannot be, say what has no effect."""
    if pooling not in (Pooling.MEAN, Pooling.NONE):
        raise ModelFileError(
            f"{header.path}: is a static model, which knows no order of tokens, so --pooling {pooling} has no meaning: "
            "use mean or none"
        )
    if compute.offload.n_gpu_layers != 0:
        report(f"{header.path.name} is a static model and runs on the processor: -ngl changes nothing")


def _set_up_static(info: ModelInfo, config: ModelConfig) -> tuple[ContextPlan, QueueConfig, ExecutionPlan]:
    """Nothing to measure, and no context is large: every worker takes texts of any length."""
    compute = config.compute
    n_threads = compute.n_threads or n_processors()
    n_workers = compute.n_workers or 1
    batch_tokens = compute.batch_tokens or STATIC_BATCH_TOKENS
    plan = ContextPlan(
        max_tokens=max(batch_tokens, info.max_input_tokens),
        max_sequences=STATIC_MAX_SEQUENCES,
        long_tokens=info.max_input_tokens,
        flash_min_tokens=None,
    )
    queue = QueueConfig(
        limits=BatchLimits(batch_tokens, STATIC_MAX_SEQUENCES),
        n_workers=n_workers,
        n_threads=n_threads,
        alone_threads=1,
        max_queued_tokens=config.max_queued_tokens,
        tokens_per_s=STATIC_TOKENS_PER_S * n_workers,
    )
    return plan, queue, ExecutionPlan(n_threads, n_workers, batch_tokens, 1, "off", "numpy", False)


def affordable_workers(n_threads: int, batch_tokens: int, n_logits: int) -> int:
    """One worker per thread, fewer when their contexts' logits would not fit `LOGITS_BYTES`; at least one."""
    return max(1, min(n_threads, LOGITS_BYTES // max(1, 4 * batch_tokens * n_logits)))


def small_context_tokens(batch_tokens: int, max_input_tokens: int, n_workers: int, n_logits: int) -> int:
    """The longest text that every worker takes: as long as `LOGITS_BYTES` lets it be, never less than a batch."""
    affordable = LOGITS_BYTES // max(1, 4 * n_logits * n_workers)
    return max(batch_tokens, min(max_input_tokens, SMALL_CONTEXT_TOKENS, affordable))


def _calibrate(engine: Engine, info: ModelInfo, config: ModelConfig, n_threads: int) -> Calibration:
    if not config.warmup or info.max_input_tokens < TEXT_TOKENS:
        return Calibration(alone_threads=n_threads)
    vocabulary = engine.vocabulary()
    start = [vocabulary.bos_id] if vocabulary.bos_id is not None else []
    ids = [*start, *(i * info.n_vocab // (TEXT_TOKENS + 1) for i in range(1, TEXT_TOKENS + 1))]
    return calibrate(engine, info.pooling, n_threads, ids[:TEXT_TOKENS], time.perf_counter)
