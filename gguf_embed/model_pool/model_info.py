"""Facts about a model: from its file's header first, and from the engine once it is loaded."""

from __future__ import annotations

from dataclasses import replace

from gguf_embed.config import ModelConfig
from gguf_embed.engines.base import LoadedEngine
from gguf_embed.gguf_file import towers
from gguf_embed.gguf_file.adapters import task_names
from gguf_embed.gguf_file.constants import VOCABULARY_TYPES, VocabularyType
from gguf_embed.gguf_file.facts import (
    context_length,
    file_type_name,
    has_rank_head,
    n_parameters,
    pooling_type,
    rank_labels,
    rerank_template,
    vector_width,
    vocabulary_size,
)
from gguf_embed.gguf_file.header import GgufHeader
from gguf_embed.gguf_file.listwise_head import has_listwise_head
from gguf_embed.gguf_file.token_heads import has_colbert_head, has_sparse_head
from gguf_embed.types import LISTWISE, MULTIVECTOR, SPARSE, TOKENS, ModelInfo, OutputSpec, Pooling

LISTWISE_CONTEXT = 8_192
"""The tokens that a listwise reranker reads together if no context is configured. A context takes its memory at once:
the keys and values of jina-reranker-v3 (28 layers of 1,024 numbers each) are 1.9 GB in float32 for 8,192 tokens, and
30 GB for the 131,072 that it was trained for."""


def describe_header(header: GgufHeader, config: ModelConfig) -> ModelInfo:
    """All facts in the header. The texts of special tokens and the tokenizer are known only after loading."""
    architecture = header.architecture
    n_ctx_train = context_length(header) or 0
    n_ctx = config.n_ctx or n_ctx_train
    pooling = config.pooling or pooling_type(header) or Pooling.NONE
    n_scores = header.array_lengths.get(f"{architecture}.classifier.output_labels", 1) if has_rank_head(header) else 0
    file_type = file_type_name(header)
    return ModelInfo(
        name=header.path.stem,
        aliases=(),
        path=header.path,
        architecture=architecture,
        description=f"{architecture} {file_type}",
        file_type=file_type,
        weights_type=file_type,
        pooling=pooling,
        embd_normalize=config.embd_normalize,
        n_embd=vector_width(header) or 0,
        n_vocab=vocabulary_size(header),
        n_ctx_train=n_ctx_train,
        n_ctx=n_ctx,
        max_input_tokens=min(n_ctx, n_ctx_train),
        n_params=n_parameters(header),
        size_bytes=header.size_bytes,
        vocab_type=VOCABULARY_TYPES.get(header.get("tokenizer.ggml.model", str) or "", VocabularyType.NONE),
        bos_token="",
        eos_token="",
        tokenizer="",
        causal=bool(header.get(f"{architecture}.attention.causal", bool)),
        license=header.get("general.license", str) or "",
        n_scores=n_scores,
        labels=rank_labels(header) if n_scores else (),
        tasks=task_names(header),
        rerank_template=rerank_template(header) if n_scores else "",
        reads_images=config.mmproj is not None or bool(header.get(towers.HAS_IMAGES, bool)),
        head_outputs=head_outputs(header),
    )


def head_outputs(header: GgufHeader) -> tuple[str, ...]:
    """The kinds of output that the file's heads on token rows give."""
    kinds = {MULTIVECTOR: has_colbert_head(header), SPARSE: has_sparse_head(header)}
    kinds[LISTWISE] = has_listwise_head(header)
    return tuple(kind for kind, is_there in kinds.items() if is_there)


def context_of(header: GgufHeader, configured: int) -> int:
    """The context to load a file with: as configured; 0: what the model was trained for."""
    if configured or not has_listwise_head(header):
        return configured
    return min(LISTWISE_CONTEXT, context_length(header) or LISTWISE_CONTEXT)


def default_output(header: GgufHeader, pooling: Pooling) -> OutputSpec:
    """What the engine computes for a request that asks for nothing else. `pooling`: as configured, else the file's."""
    return OutputSpec(TOKENS, for_scores=True) if has_listwise_head(header) else OutputSpec.of(pooling)


def describe_loaded(info: ModelInfo, loaded: LoadedEngine, config: ModelConfig, tokenizer: str) -> ModelInfo:
    """`info`, updated with the loaded engine's facts. `tokenizer` is the name of the chosen tokenizer."""
    facts = loaded.engine.info
    n_ctx = config.n_ctx or facts.n_ctx_train
    return replace(
        info,
        description=facts.description,
        weights_type=loaded.weights_type,
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
        tokenizer=tokenizer,
        causal=facts.causal,
        n_scores=facts.n_cls_out,
        labels=facts.labels,
        tasks=facts.tasks,
        rerank_template=info.rerank_template if facts.n_cls_out else "",
    )


def under_served_names(loaded: ModelInfo, served: ModelInfo) -> ModelInfo:
    """The facts of the loaded model, with the names and prompts from the registry."""
    return replace(
        loaded,
        name=served.name,
        aliases=served.aliases,
        prompts=served.prompts,
        matryoshka=served.matryoshka,
        license=served.license,
        problems=served.problems,
    )
