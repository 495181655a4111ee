"""jina-reranker-v3: a Qwen3 that reads a query and several documents as one text, and the layers after its markers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from gguf_embed.convert.safetensors import list_tensors, read_float32
from gguf_embed.convert.source import ModelSourceDirectory
from gguf_embed.convert.vocabulary_ids import read_token_ids
from gguf_embed.errors import ModelFileError
from gguf_embed.gguf_file.listwise_head import LISTWISE

ARCHITECTURE: Final = "JinaForRanking"
TENSORS: Final = "projector."

_LAYERS = {"weight": "projector.0.weight", "output_weight": "projector.2.weight"}
_MARKERS = {"document_token": "<|embed_token|>", "query_token": "<|rerank_token|>"}
_LIMITS = {"document_length": 2048, "query_length": 512, "max_documents": 125}
"""The defaults of the original's `rerank`, in `modeling.py`; no file has them."""


def is_listwise(source: ModelSourceDirectory) -> bool:
    declared = source.config.get("architectures")
    return isinstance(declared, list) and ARCHITECTURE in declared


def listwise_head(source: ModelSourceDirectory) -> Mapping[str, Any]:
    """The keys to write, see `gguf_file/listwise_head.py`; none for any other model. Raises `ModelFileError`."""
    if not is_listwise(source):
        return {}
    _check_attention(source)
    stored, ids = list_tensors(source.path), read_token_ids(source)
    _check_tensors(source, stored)
    missing = [text for text in _MARKERS.values() if text not in ids]
    if missing:
        raise ModelFileError(f"{source.path}: its tokenizer has no token {missing[0]}")
    weights = {key: read_float32(stored[name]) for key, name in _LAYERS.items()}
    values: dict[str, Any] = weights | {key: ids[text] for key, text in _MARKERS.items()} | _LIMITS
    values["hidden"], values["dimensions"] = (len(weight) for weight in weights.values())
    return {LISTWISE + key: value for key, value in values.items()}


def _check_attention(source: ModelSourceDirectory) -> None:
    """jina-reranker-v3.5 has layers that see a window only."""
    kinds = source.config.get("layer_types") or ()
    others = [kind for kind in kinds if kind != "full_attention"]
    if others:
        raise ModelFileError(
            f"{source.path / 'config.json'}: layer_types has {others[0]!r}, which cannot be converted (only "
            "full_attention, as in jina-reranker-v3)"
        )


def _check_tensors(source: ModelSourceDirectory, stored: Mapping[str, Any]) -> None:
    """Raises `ModelFileError` unless the projector is two matrices that fit the model and each other."""
    shapes = {name: stored[name].shape for name in stored if name.startswith(TENSORS)}
    first, second = (shapes.get(name, ()) for name in _LAYERS.values())
    fits = len(first) == len(second) == 2 and first[1:] == (source.integer("hidden_size"),) and second[1] == first[0]
    if len(shapes) != len(_LAYERS) or not fits:
        found = ", ".join(f"{name} {list(shape)}" for name, shape in sorted(shapes.items())) or "nothing"
        raise ModelFileError(
            f"{source.path}: its projector has {found}, expected {' and '.join(_LAYERS.values())}: two matrices, one "
            "after the other"
        )
