"""The driver for OpenVINO: encoders as whole graphs, built from the GGUF's tensors. Imports it only on loading."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gguf_embed.config import ModelConfig
from gguf_embed.engines.base import BatchLimits, ClosableCodec, ExecutionPlan, ImageReader, LoadedEngine, LoadSpec
from gguf_embed.engines.cpu_count import threads_for
from gguf_embed.engines.openvino import support
from gguf_embed.engines.openvino.failures import import_errors, openvino_errors
from gguf_embed.engines.records import MeasurementRecords, record_key
from gguf_embed.errors import ModelFileError
from gguf_embed.gguf_file import towers
from gguf_embed.gguf_file.facts import context_length
from gguf_embed.gguf_file.header import GgufHeader
from gguf_embed.gguf_file.layout import read_layout, read_numbers
from gguf_embed.gguf_file.strings import read_strings
from gguf_embed.gguf_file.vocabulary import has_wordpiece, read_wordpiece_vocabulary
from gguf_embed.tokenization.clip_bpe import ClipCodec
from gguf_embed.tokenization.siglip_unigram import PRE as SIGLIP
from gguf_embed.tokenization.siglip_unigram import SiglipCodec
from gguf_embed.tokenization.wordpiece_codec import WordPieceCodec

if TYPE_CHECKING:
    from gguf_embed.engines.openvino.build import ModelBuilder
    from gguf_embed.engines.openvino.calibration import Choice

SMALL_CONTEXT_TOKENS = 1024
"""Texts up to this length run on every worker, longer ones on one worker only, one at a time."""


@dataclass(frozen=True, slots=True)
class LoadedGraph(LoadedEngine):
    """What the driver loaded, and how it is computed."""

    choice: Choice = field(kw_only=True)


class OpenVinoDriver:
    """Implements `EngineDriver`."""

    name = "openvino"

    def refusal(self, header: GgufHeader, config: ModelConfig) -> str | None:
        return support.refusal(header, config)

    def supports_gpu(self) -> bool:
        return False

    def memory_bytes(self, header: GgufHeader, config: ModelConfig) -> int:
        return support.resident_bytes(header, config) + support.image_bytes(header, config)

    def load(self, spec: LoadSpec) -> LoadedEngine:
        """Raises `EngineFailure` if OpenVINO cannot be imported, or fails itself."""
        with import_errors():
            from gguf_embed.engines.openvino.build import ModelBuilder

        with ExitStack() as stack:
            opened = open_codec(spec)
            stack.callback(opened.close)
            with openvino_errors(f"{spec.header.path.name}: OpenVINO cannot load it"):
                builder = ModelBuilder(spec, opened.codec)
                choice = _choose(builder, spec)
                engine = builder.compile(
                    choice.precision, choice.n_streams, choice.float32_layers, alone=True, on_close=opened.close
                )
            open_images = _image_opener(spec, engine.info.n_embd, choice.precision)
            stack.pop_all()
        exact = opened.codec if isinstance(opened.codec, ClipCodec | SiglipCodec) else opened.exact
        return LoadedGraph(
            engine,
            opened.codec,
            choice.weights_type,
            exact,
            open_images,
            float32_layers=choice.float32_layers,
            images_alone=True,
            choice=choice,
        )

    def plan(self, loaded: LoadedEngine, spec: LoadSpec, max_input_tokens: int) -> ExecutionPlan:
        """Everything was measured on loading, because it decides how the graph is compiled."""
        from gguf_embed.engines.openvino.engine import MAX_SEQUENCES, OpenVinoContexts

        assert isinstance(loaded, LoadedGraph)
        choice, compute = loaded.choice, spec.config.compute
        batch_tokens = compute.batch_tokens or choice.batch_tokens
        n_threads = threads_for(compute)
        return ExecutionPlan(
            contexts=OpenVinoContexts(max(batch_tokens, min(max_input_tokens, SMALL_CONTEXT_TOKENS)), max_input_tokens),
            limits=BatchLimits(batch_tokens, MAX_SEQUENCES, by_length=True),
            n_workers=choice.n_streams,
            n_threads=n_threads,
            alone_threads=compute.alone_threads or n_threads,
            tokens_per_s=choice.tokens_per_s,
            kernels=choice.kernel or "unchecked",
            details=choice.details,
            measured=choice.measured,
            bf16_failed=choice.bf16_failed,
        )


def open_codec(spec: LoadSpec) -> ClosableCodec:
    """The file's vocabulary, with llama.cpp only if it is not WordPiece, or if its tokenizer is configured."""
    header = spec.header
    if header.architecture == towers.TEXT:
        return ClosableCodec(_clip_codec(header), lambda: None)
    if not has_wordpiece(header) or spec.config.tokenizer == "llama":
        return spec.open_codec(header.path)
    stored = read_wordpiece_vocabulary(header)
    codec = WordPieceCodec(stored.vocabulary, stored.piece, strips_first_space=stored.strips_first_space)
    return ClosableCodec(codec, lambda: None)


def _clip_codec(header: GgufHeader) -> ClipCodec | SiglipCodec:
    """Raises `ModelFileError` for a vocabulary that is neither CLIP's nor SigLIP's."""
    entries, merges = (read_strings(header.path, f"tokenizer.ggml.{name}") for name in ("tokens", "merges"))
    try:
        if header.get("tokenizer.ggml.pre", str) != SIGLIP:
            return ClipCodec(entries, merges)
        stored = read_layout(header).entries
        keys = ("scores", "token_type", "precompiled_charsmap")
        found = [stored.get(f"tokenizer.ggml.{key}") for key in keys]
        scores, types, charsmap = (
            [] if entry is None else read_numbers(header.path, entry).tolist() for entry in found
        )
        return SiglipCodec(entries, scores, types, bytes(charsmap), context_length(header) or 1)
    except ModelFileError as error:
        raise ModelFileError(f"{header.path}: {error.message}") from error


def _image_opener(spec: LoadSpec, n_embd: int, precision: str) -> Callable[[], ImageReader] | None:
    """What opens the model's image tower; None without one."""
    if spec.config.mmproj is None and not spec.header.get(towers.HAS_IMAGES, bool):
        return None
    from gguf_embed.engines.openvino.images import TowerReader, find_tower

    tower = find_tower(spec)
    return None if tower is None else lambda: TowerReader(tower, spec, n_embd, precision)


def _choose(builder: ModelBuilder, spec: LoadSpec) -> Choice:
    """How to compute: as measured on this machine before, or now. Without warm-up, the defaults.

    A choice that was made because BF16 failed is not kept, so the next load tries it again.
    """
    from gguf_embed.engines.openvino.build import SAMPLE_TOKENS
    from gguf_embed.engines.openvino.calibration import BATCH_TOKENS, Choice

    compute = spec.config.compute
    builder.check_precision()
    if not spec.config.warmup:
        choice = Choice(precision="bf16" if compute.precision == "bf16" else "f32")
        return choice.with_streams(compute.n_workers)
    records = MeasurementRecords(spec.cache_dir)
    n_threads = threads_for(compute)
    settings = (n_threads, spec.output, compute.precision, compute.weights == "file", BATCH_TOKENS, SAMPLE_TOKENS)
    key = record_key(spec.header.path, "openvino", *settings)
    recorded = Choice.from_record(records.read(key))
    chosen = recorded or builder.measured()
    if recorded is None and not chosen.bf16_failed:
        records.write(key, chosen.to_record())
    return chosen.with_streams(compute.n_workers)
