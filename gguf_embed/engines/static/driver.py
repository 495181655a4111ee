"""The driver for static models, which are a table of rows, computed by numpy on the CPU."""

from __future__ import annotations

from dataclasses import dataclass

from gguf_embed.config import ModelConfig
from gguf_embed.engines.base import BatchLimits, ContextSpec, ExecutionPlan, LoadedEngine, LoadSpec
from gguf_embed.engines.cpu_count import threads_for
from gguf_embed.engines.memory import TOO_LARGE_TO_READ, fits_in_memory, mapped_notice
from gguf_embed.engines.static.engine import OUTPUTS, StaticEngine
from gguf_embed.errors import ModelFileError
from gguf_embed.gguf_file.facts import file_type_name
from gguf_embed.gguf_file.header import GgufHeader
from gguf_embed.gguf_file.static_format import ARCHITECTURE
from gguf_embed.types import OutputSpec

BATCH_TOKENS = 8192
MAX_SEQUENCES = 1024
"""A static model's batch: enough texts to make handing them over cheap, few enough to compute in a millisecond."""

TOKENS_PER_S = 5_000_000.0
"""Initial estimate of one worker's speed; the queue measures the real one."""

BUFFER_BYTES = 32 * 2**20
"""Estimate of the memory that a model takes in addition to its rows: the tokenizer, and the workers' buffers."""


@dataclass(frozen=True, slots=True)
class StaticContexts:
    """Implements `ContextPlanner`. Contexts are small, so every worker takes texts of any length."""

    max_tokens: int
    long_tokens: int

    def spec(self, output: OutputSpec, n_tokens: int, *, long: bool) -> ContextSpec:
        return ContextSpec(output, self.max_tokens, MAX_SEQUENCES)


class StaticDriver:
    """Implements `EngineDriver`."""

    name = "static"

    def refusal(self, header: GgufHeader, config: ModelConfig) -> str | None:
        return None if header.architecture == ARCHITECTURE else f"{header.architecture} is not a static model"

    def supports_gpu(self) -> bool:
        return False

    def memory_bytes(self, header: GgufHeader, config: ModelConfig) -> int:
        return header.size_bytes + BUFFER_BYTES

    def load(self, spec: LoadSpec) -> LoadedEngine:
        header = spec.header
        if spec.output not in OUTPUTS:
            raise ModelFileError(
                f"{header.path} is a static model, which ignores the order of tokens, so pooling "
                f"{spec.output.pooling_name} has no meaning: use mean or none"
            )
        if spec.config.compute.offload.n_gpu_layers != 0:
            spec.report(f"{header.path.name} is a static model and runs on the CPU: -ngl has no effect")
        if not all(fits_in_memory(tensor.size_bytes) for tensor in header.tensors.values()):
            spec.report(mapped_notice(header.path.name, TOO_LARGE_TO_READ))
        engine = StaticEngine(header)
        return LoadedEngine(engine, engine.codec, file_type_name(header), exact=engine.codec)

    def plan(self, loaded: LoadedEngine, spec: LoadSpec, max_input_tokens: int) -> ExecutionPlan:
        """There is nothing to measure."""
        compute = spec.config.compute
        batch_tokens = compute.batch_tokens or BATCH_TOKENS
        n_workers = compute.n_workers or 1
        return ExecutionPlan(
            contexts=StaticContexts(max(batch_tokens, max_input_tokens), max_input_tokens),
            limits=BatchLimits(batch_tokens, MAX_SEQUENCES),
            n_workers=n_workers,
            n_threads=threads_for(compute),
            alone_threads=1,
            tokens_per_s=TOKENS_PER_S * n_workers,
            kernels="numpy",
            is_worth_caching=False,
        )
