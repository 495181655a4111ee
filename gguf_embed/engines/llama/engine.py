"""The llama.cpp engine: loaded weights, and the contexts that run batches."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from gguf_embed.config import OffloadConfig
from gguf_embed.engines.base import ContextSpec, EngineInfo
from gguf_embed.engines.llama import api
from gguf_embed.engines.llama.codec import LlamaCodec
from gguf_embed.engines.llama.context import LlamaContext, LlamaContextSpec, LoadedWeights
from gguf_embed.errors import ModelFileError, NotSupported
from gguf_embed.gguf_file.constants import POOLING_NUMBERS
from gguf_embed.gguf_file.token_rows import PairRows
from gguf_embed.types import DENSE, SCORES, TOKENS, Pooling

if TYPE_CHECKING:
    from gguf_embed.engines.llama.images import ImageContext, ImageSpec


@dataclass(frozen=True, slots=True)
class LlamaEngineConfig:
    """One model file and how to load it."""

    path: Path
    offload: OffloadConfig = field(default_factory=OffloadConfig)
    rank_head: bool = False  # the file has a classification head; without one, llama.cpp's scores would be noise
    labels: tuple[str, ...] = ()  # of the head's numbers
    pair_rows: PairRows | None = None  # for a model with token types
    in_memory: bool = False  # read the file instead of mapping it


class LlamaEngine:
    """Implements `Engine`: loaded weights, shared by contexts. Any thread; `close` after all contexts are closed."""

    def __init__(self, config: LlamaEngineConfig) -> None:
        """Load the weights, which takes seconds for large files. Raises `ModelFileError` with one clear reason."""
        self._config = config
        with ExitStack() as stack:
            self._model = api.load_model(config.path, config.offload, in_memory=config.in_memory)
            stack.callback(api.free_model, self._model)
            self.codec = LlamaCodec(self._model)
            self._facts = api.model_facts(self._model)
            if self._facts.has_encoder_and_decoder:
                raise ModelFileError(f"{config.path.name} is an encoder-decoder model, which has no text embeddings")
            self.info = self._read_info()
            self._stack = stack.pop_all()

    def _read_info(self) -> EngineInfo:
        facts, vocabulary = self._facts, self.codec.vocabulary()
        architecture = api.read_metadata(self._model, "general.architecture") or "unknown"
        pooling_code = api.read_metadata(self._model, f"{architecture}.pooling_type")
        by_code = {str(code): pooling for pooling, code in POOLING_NUMBERS.items()}

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
            vocab_type=self.codec.vocabulary_code,
            bos_token=vocabulary.text_of(vocabulary.bos_id),
            eos_token=vocabulary.text_of(vocabulary.eos_id),
            labels=self._config.labels,
            has_second_text=self._config.rank_head and self._config.pair_rows is not None,
        )

    @property
    def runs_in_parts(self) -> bool:
        """Whether a text may be computed part by part: the model has a KV memory, and its attention is causal.

        A decoder whose file says that attention is not causal (gte-Qwen2) needs each batch whole, which llama.cpp
        asserts.
        """
        key = f"{self.info.architecture}.attention.causal"
        return self.info.causal and api.read_metadata(self._model, key) != "false"

    def _probe_memory(self) -> bool:
        """Whether the model has a KV memory. Only a context knows, so this opens the smallest one.

        T5's encoder is given one that its graph does not use; as a decoder, it would not see the tokens ahead.
        """
        if api.read_metadata(self._model, "general.architecture") == "t5encoder":
            return False
        params = api.ContextParams(n_tokens=32, n_ubatch=32, n_sequences=1, pooling=Pooling.NONE, flash_attention=False)
        context = api.new_context(self._model, params)
        try:
            return api.has_memory(context)
        finally:
            api.free_context(context)

    def open_context(self, spec: ContextSpec) -> LlamaContext:
        if spec.output.kind not in (DENSE, TOKENS, SCORES):
            raise NotSupported(f"llama.cpp does not compute {spec.output.kind} output")
        if spec.output.unattended is not None:
            raise NotSupported("in llama.cpp, every token of a text is attended to")
        if spec.output.kind == SCORES and not self.info.n_cls_out:
            raise ModelFileError(
                f"{self._config.path.name} has no rank head, so pooling rank cannot work: use a reranker's GGUF"
            )
        if not isinstance(spec, LlamaContextSpec):
            spec = LlamaContextSpec(spec.output, spec.max_tokens, spec.max_sequences)
        return LlamaContext(LoadedWeights(self._model, self.info, self.runs_in_parts, self._config.pair_rows), spec)

    def open_images(self, spec: ImageSpec) -> ImageContext:
        """Load the vision tower `spec.mmproj` for this model. Raises `ModelFileError`."""
        from gguf_embed.engines.llama.images import ImageContext  # imported here, because it loads another library

        if not self.runs_in_parts:
            raise ModelFileError(
                f"{self._config.path.name} reads a text as a whole, so images cannot be inserted between its tokens: "
                "a vision tower needs a causal decoder"
            )
        return ImageContext(self.info, self._model, spec)

    def close(self) -> None:
        self._stack.close()
