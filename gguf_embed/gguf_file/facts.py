"""What a GGUF's header means for embedding: type, pooling, limits, and whether the model can embed at all."""

from __future__ import annotations

from collections import Counter
from math import prod

from gguf_embed.errors import ModelFileError
from gguf_embed.gguf_file.constants import FILE_TYPES, POOLING_NUMBERS, RANK_HEADS
from gguf_embed.gguf_file.crisp_layout import is_unread
from gguf_embed.gguf_file.header import GgufHeader
from gguf_embed.gguf_file.rerank_prompt import RERANK_TEMPLATE
from gguf_embed.types import Pooling

_POOLINGS = {number: pooling for pooling, number in POOLING_NUMBERS.items()}
_UNSPECIFIED = (-1, 0xFFFFFFFF)
_GUESSED = 1024  # a flag in general.file_type: llama.cpp has guessed it

_NOT_MODELS = {
    "adapter": "a LoRA adapter, which must be merged into its base model first",
    "mmproj": "a multimodal projector that belongs to a model",
    "imatrix": "an importance matrix for quantizing",
    "vocab": "a vocabulary without weights",
}
_CANNOT_EMBED = {
    "clip": "it is a projector or an image tower, which belongs to a model (--mmproj)",
    "vit": "it is an image tower, which belongs to a text tower (--mmproj)",
    "wavtokenizer-dec": "it turns audio codes into sound and does not read text",
    "t5": "llama.cpp runs it as encoder and decoder together; use only its encoder (t5encoder)",
    "eagle3": "it is a draft model for another model",
    "dflash": "it is a draft model for another model",
    "gemma4-assistant": "it is a draft model for another model",
}


def file_type_name(header: GgufHeader) -> str:
    """The type of most weights, e.g. "Q8_0": as the file declares, else the tensor type with the most elements."""
    number = header.get("general.file_type", int)
    if number is not None and number & ~_GUESSED in FILE_TYPES:
        return FILE_TYPES[number & ~_GUESSED]
    n_elements: Counter[str] = Counter()
    for tensor in header.tensors.values():
        n_elements[tensor.type] += prod(tensor.shape)
    return n_elements.most_common(1)[0][0] if n_elements else "unknown"


def n_parameters(header: GgufHeader) -> int:
    """The number of weights in all tensors."""
    return sum(prod(tensor.shape) for tensor in header.tensors.values())


def tensor_bytes(header: GgufHeader) -> int:
    """The size of all tensors as they are stored."""
    return sum(tensor.size_bytes for tensor in header.tensors.values())


def pooling_type(header: GgufHeader) -> Pooling | None:
    """The pooling that the file declares; None if it declares none.

    Raises `ModelFileError` for an undefined number, for which llama.cpp would end the process.
    """
    key = f"{header.architecture}.pooling_type"
    number = header.get(key, int)
    if number is None or number in _UNSPECIFIED:
        return None
    if number not in _POOLINGS:
        raise ModelFileError(f"{header.path}: {key} is {number}, expected 0 to 4; convert the model again")
    return _POOLINGS[number]


def has_rank_head(header: GgufHeader) -> bool:
    """Whether the file has a classification head for pooling rank.

    llama.cpp needs one of its tensors; without any it returns the first numbers of an ordinary vector as scores.
    """
    return any(name in header.tensors for name in RANK_HEADS)


def rank_labels(header: GgufHeader) -> tuple[str, ...]:
    """The names of the rank head's scores, in their order; () if the file has none."""
    labels = header.metadata.get(f"{header.architecture}.classifier.output_labels")
    return tuple(map(str, labels)) if isinstance(labels, tuple) else ()


def rerank_template(header: GgufHeader) -> str:
    """The template that combines a query and a document for scoring; "" if the file has none."""
    return header.get(RERANK_TEMPLATE, str) or ""


def context_length(header: GgufHeader) -> int | None:
    """The number of positions the model was trained for; None if the file does not declare it."""
    return header.get(f"{header.architecture}.context_length", int)


def vector_width(header: GgufHeader) -> int | None:
    """The numbers per vector; None if the file does not declare them."""
    keys = ("embedding_length_out", "embedding_length")
    return next((n for key in keys if (n := header.get(f"{header.architecture}.{key}", int))), None)


def vocabulary_size(header: GgufHeader) -> int:
    """The number of entries in the vocabulary; 0 without one."""
    return header.array_lengths.get("tokenizer.ggml.tokens", 0)


def check_can_embed(header: GgufHeader) -> None:
    """Raise `ModelFileError` if this file cannot turn text into vectors at all.

    Anything else is left to llama.cpp: decoders, recurrent and hybrid models can all give embeddings.
    """
    kind = header.get("general.type", str)
    if kind in _NOT_MODELS:
        raise ModelFileError(f"{header.path} is {_NOT_MODELS[kind]} (general.type {kind!r}); name an embedding model")
    if is_unread(header.architecture, header.tensors):
        raise ModelFileError(
            f"{header.path} is in CrispEmbed's layout, which is read of BERT, RoBERTa, XLM-R, MPNet and ModernBERT "
            "with their usual tokenizers only: convert the original with gguf-embed convert"
        )
    reason = _CANNOT_EMBED.get(header.architecture)
    if reason is not None:
        raise ModelFileError(
            f"{header.path}: architecture {header.architecture!r} cannot give text embeddings: {reason}"
        )
    if not header.tensors and header.get("split.count", int) is None:
        raise ModelFileError(f"{header.path} has no tensors, only metadata ({header.architecture}); name a model")
    if vocabulary_size(header) == 0:
        raise ModelFileError(f"{header.path} has no vocabulary, so it cannot read text; name an embedding model")
