"""The driver for llama.cpp: chooses the weights to run, measures at warm-up, sizes contexts. Accepts any GGUF."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Literal

from gguf_embed.config import ComputeConfig, ModelConfig
from gguf_embed.engines.base import (
    BatchLimits,
    Engine,
    EngineInfo,
    ExecutionPlan,
    ImageReader,
    LoadedEngine,
    LoadSpec,
    TextCodec,
)
from gguf_embed.engines.cpu_count import threads_for
from gguf_embed.engines.llama import api
from gguf_embed.engines.llama.bf16_copy import bf16_copy, computes_bf16_faster, wants_bf16
from gguf_embed.engines.llama.calibration import TEXT_TOKENS, Calibration, calibrate
from gguf_embed.engines.llama.context import FlashContexts
from gguf_embed.engines.llama.engine import LlamaEngine, LlamaEngineConfig
from gguf_embed.engines.llama.gpu_build import supports_gpu
from gguf_embed.engines.memory import TOO_LARGE_TO_READ, fits_in_memory, mapped_notice
from gguf_embed.errors import ModelFileError
from gguf_embed.gguf_file import towers
from gguf_embed.gguf_file.facts import file_type_name, has_rank_head, rank_labels
from gguf_embed.gguf_file.graph_only import why_not_llama
from gguf_embed.gguf_file.header import GgufHeader, read_header
from gguf_embed.gguf_file.listwise_head import has_listwise_head
from gguf_embed.gguf_file.token_heads import TENSORS as HEAD_TENSORS
from gguf_embed.gguf_file.token_rows import PairRows, has_token_types
from gguf_embed.gguf_file.vision_tower import check_tower
from gguf_embed.model_store.names import split_parts
from gguf_embed.types import OutputSpec

CONTEXT_BYTES = 96 * 2**20
"""Estimate of the memory for a model's contexts and buffers: what all-MiniLM-L6-v2 takes on two workers."""

GPU_BATCH_TOKENS = 2048
"""Tokens per batch if layers run on a GPU. Not measured yet: set -ub to try other sizes."""

SMALL_CONTEXT_TOKENS = 1024
"""Texts up to this length run on every worker, longer ones on the one worker that has a large context."""

LOGITS_BYTES = 2**30
"""Limit on the logits of all workers together. In every context of a decoder, llama.cpp writes 4 bytes per token of a
batch and entry of the vocabulary, which embedding never reads: 155 MB for 256 tokens and 151,000 entries."""

MAX_SEQUENCES = 64

MAX_IMAGE_TOKENS = 8192
"""Limit on the tokens of an input with images. The context always holds KV memory for all of them: 0.9 GB for a model
of 2 billion parameters."""


class LlamaDriver:
    """Implements `EngineDriver`."""

    name = "llama"

    def refusal(self, header: GgufHeader, config: ModelConfig) -> str | None:
        if header.architecture == towers.TEXT:
            return "llama.cpp has no text tower of CLIP"
        if towers.tower_for(header, config.mmproj) is not None:
            return "llama.cpp has no image tower that gives each image one vector"
        heads = sorted(HEAD_TENSORS & header.tensors.keys())
        if heads:
            return f"it has no tensor {heads[0]}"
        return why_not_llama(header)  # anything else llama.cpp refuses itself, on loading

    def supports_gpu(self) -> bool:
        return supports_gpu()

    def memory_bytes(self, header: GgufHeader, config: ModelConfig) -> int:
        return header.size_bytes + CONTEXT_BYTES

    def load(self, spec: LoadSpec) -> LoadedEngine:
        path, weights_type = _choose_weights(spec)
        engine_config = _engine_config(path, spec)
        if path == spec.header.path and not engine_config.in_memory:
            on_gpu = engine_config.offload.n_gpu_layers != 0
            spec.report(mapped_notice(path.name, "a GPU computes it" if on_gpu else TOO_LARGE_TO_READ))
        engine = LlamaEngine(engine_config)
        return LoadedEngine(engine, engine.codec, weights_type, open_images=lambda: _open_images(engine, spec))

    def plan(self, loaded: LoadedEngine, spec: LoadSpec, max_input_tokens: int) -> ExecutionPlan:
        config, info = spec.config, loaded.engine.info
        compute = config.compute
        on_gpu = compute.offload.n_gpu_layers != 0
        n_threads = threads_for(compute)
        n_logits = info.n_vocab if info.causal else 0  # per token; an encoder's memory for them is released
        measured = Calibration(alone_threads=n_threads)
        if config.warmup and max_input_tokens >= TEXT_TOKENS:
            measured = _calibrate(loaded.engine, loaded.codec, spec.output, n_threads)
        batch_tokens = compute.batch_tokens or (GPU_BATCH_TOKENS if on_gpu else measured.batch_tokens)
        n_workers = compute.n_workers or (1 if on_gpu else affordable_workers(n_threads, batch_tokens, n_logits))
        flash_from = {"on": 0, "off": None, "auto": measured.flash_min_tokens}[compute.flash_attention]
        contexts = FlashContexts(
            max_tokens=small_context_tokens(batch_tokens, max_input_tokens, n_workers, n_logits),
            max_sequences=MAX_SEQUENCES,
            long_tokens=max_input_tokens,
            flash_min_tokens=flash_from,
        )
        return ExecutionPlan(
            contexts=contexts,
            limits=BatchLimits(batch_tokens, MAX_SEQUENCES),
            n_workers=n_workers,
            n_threads=n_threads,
            alone_threads=compute.alone_threads or measured.alone_threads,
            tokens_per_s=measured.tokens_per_s * n_workers,
            kernels=_kernels(config),
            details=(f"flash attention {_flash_in_words(flash_from)}",),
            measured=measured.measured,
        )


def _choose_weights(spec: LoadSpec) -> tuple[Path, str]:
    """The file to run and the type of its weights. Also switches the AMX kernels on or off."""
    header, compute = spec.header, spec.config.compute
    api.use_amx_gemm(compute.amx)
    file_type = file_type_name(header)
    on_gpu = compute.offload.n_gpu_layers != 0
    fast = computes_bf16_faster(compute.amx)
    scores = has_rank_head(header) or has_listwise_head(header)
    if wants_bf16(_weights_choice(compute), file_type, on_gpu, fast, scores=scores):
        try:
            return bf16_copy(header.path, spec.cache_dir, threads_for(compute), spec.report), "BF16"
        except ModelFileError as error:
            if _weights_choice(compute) == "bf16":
                raise
            spec.report(
                f"{error}: set GGUF_EMBED_CACHE to another folder. {header.path.name} runs unchanged, which is slower"
            )
    return header.path, file_type


def _weights_choice(compute: ComputeConfig) -> Literal["auto", "file", "bf16"]:
    """--weights, else what --precision means for llama.cpp's weights."""
    if compute.weights != "auto":
        return compute.weights
    meanings: dict[str, Literal["auto", "file", "bf16"]] = {"auto": "auto", "f32": "file", "bf16": "bf16"}
    return meanings[compute.precision]


def _engine_config(path: Path, spec: LoadSpec) -> LlamaEngineConfig:
    header, offload = spec.header, spec.config.compute.offload
    in_memory = path == header.path and offload.n_gpu_layers == 0 and fits_in_memory(_bytes_of_all_parts(path))
    if not has_rank_head(header):
        return LlamaEngineConfig(path, offload, in_memory=in_memory)
    pair_rows = PairRows(header) if has_token_types(header) else None
    return LlamaEngineConfig(
        path, offload, rank_head=True, labels=rank_labels(header), pair_rows=pair_rows, in_memory=in_memory
    )


def _bytes_of_all_parts(path: Path) -> int:
    parts = (path.with_name(name) for name in split_parts(path.name))
    return sum(part.stat().st_size for part in parts if part.is_file())


def _open_images(engine: LlamaEngine, spec: LoadSpec) -> ImageReader:
    """Load the vision tower. Raises `ModelFileError`."""
    from gguf_embed.engines.llama.images import ImageSpec  # imported here, because it loads another library

    config, mmproj = spec.config, spec.config.mmproj
    assert mmproj is not None
    check_tower(read_header(mmproj))
    if not engine.runs_in_parts:
        raise ModelFileError(
            f"{spec.header.path.name} reads a text as a whole, so images cannot be inserted between its tokens: "
            "a vision tower needs a causal decoder"
        )
    longest = min(config.n_ctx or engine.info.n_ctx_train, engine.info.n_ctx_train)
    return engine.open_images(
        ImageSpec(
            mmproj=mmproj,
            max_tokens=min(longest, MAX_IMAGE_TOKENS),
            n_threads=threads_for(config.compute),
            use_gpu=config.compute.offload.n_gpu_layers != 0,
        )
    )


def _calibrate(engine: Engine, codec: TextCodec, output: OutputSpec, n_threads: int) -> Calibration:
    return calibrate(engine, output, n_threads, _sample_ids(engine.info, codec), time.perf_counter)


def _sample_ids(info: EngineInfo, codec: TextCodec) -> list[int]:
    """A text of `TEXT_TOKENS` ids spread over the vocabulary."""
    bos = codec.vocabulary().bos_id
    start = [bos] if bos is not None else []
    ids = [*start, *(i * info.n_vocab // (TEXT_TOKENS + 1) for i in range(1, TEXT_TOKENS + 1))]
    return ids[:TEXT_TOKENS]


def _kernels(config: ModelConfig) -> str:
    if api.n_amx_multiplications():
        return "AMX"
    return "ggml" if config.warmup else "unchecked"  # without warm-up nothing has been computed yet


def _flash_in_words(flash_from: int | None) -> str:
    if flash_from is None:
        return "off"
    return "on" if flash_from == 0 else f"on from {flash_from} tokens per batch"


def affordable_workers(n_threads: int, batch_tokens: int, n_logits: int) -> int:
    """One worker per thread, but fewer if the logits of their contexts would exceed `LOGITS_BYTES`; at least one."""
    return max(1, min(n_threads, LOGITS_BYTES // max(1, 4 * batch_tokens * n_logits)))


def small_context_tokens(batch_tokens: int, max_input_tokens: int, n_workers: int, n_logits: int) -> int:
    """The length of the longest text that every worker takes: limited by `LOGITS_BYTES`, but at least one batch."""
    affordable = LOGITS_BYTES // max(1, 4 * n_logits * n_workers)
    return max(batch_tokens, min(max_input_tokens, SMALL_CONTEXT_TOKENS, affordable))
