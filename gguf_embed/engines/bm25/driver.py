"""The driver for BM25."""

from __future__ import annotations

from gguf_embed.config import ModelConfig
from gguf_embed.engines.base import BatchLimits, ContextSpec, ExecutionPlan, LoadedEngine, LoadSpec
from gguf_embed.engines.bm25.engine import Bm25Engine
from gguf_embed.engines.cpu_count import threads_for
from gguf_embed.errors import ModelFileError
from gguf_embed.gguf_file.bm25_format import ARCHITECTURE
from gguf_embed.gguf_file.header import GgufHeader
from gguf_embed.types import TOKENS, OutputSpec

BATCH_WORDS = 16_384
MAX_SEQUENCES = 256
WORDS_PER_S = 500_000.0
"""Initial estimate, measured with texts of 20 words on a busy machine; the queue measures the real speed."""

MEMORY_BYTES = 32 * 2**20
"""Estimate: ids of 131,072 words."""


class Bm25Contexts:
    """Implements `ContextPlanner`."""

    def __init__(self, max_tokens: int) -> None:
        self.max_tokens = self.long_tokens = max_tokens

    def spec(self, output: OutputSpec, n_tokens: int, *, long: bool) -> ContextSpec:
        return ContextSpec(output, self.max_tokens, MAX_SEQUENCES)


class Bm25Driver:
    """Implements `EngineDriver`."""

    name = "bm25"

    def refusal(self, header: GgufHeader, config: ModelConfig) -> str | None:
        return None if header.architecture == ARCHITECTURE else f"{header.architecture} is not BM25"

    def supports_gpu(self) -> bool:
        return False

    def memory_bytes(self, header: GgufHeader, config: ModelConfig) -> int:
        return header.size_bytes + MEMORY_BYTES

    def load(self, spec: LoadSpec) -> LoadedEngine:
        if spec.output.kind != TOKENS:
            raise ModelFileError(
                f"{spec.header.path} is BM25, which has no token vectors, so pooling {spec.output.pooling_name} has no "
                "meaning: leave it out, and ask for sparse vectors"
            )
        engine = Bm25Engine(spec.header)
        return LoadedEngine(engine, engine.codec, "F32", exact=engine.codec)

    def plan(self, loaded: LoadedEngine, spec: LoadSpec, max_input_tokens: int) -> ExecutionPlan:
        """There is nothing to measure."""
        return ExecutionPlan(
            contexts=Bm25Contexts(max(BATCH_WORDS, max_input_tokens)),
            limits=BatchLimits(BATCH_WORDS, MAX_SEQUENCES),
            n_workers=1,
            n_threads=threads_for(spec.config.compute),
            alone_threads=1,
            tokens_per_s=WORDS_PER_S,
            kernels="numpy",
            is_worth_caching=False,
        )
