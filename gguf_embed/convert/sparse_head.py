"""Sparse heads: BGE-M3's `sparse_linear.pt`, and SPLADE's masked language head in sentence-transformers' files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gguf_embed.convert.safetensors import StoredTensor, list_tensors, read_float32
from gguf_embed.convert.source import ModelSourceDirectory, read_json, read_modules
from gguf_embed.convert.torch_file import read_torch_file
from gguf_embed.convert.vocabulary_ids import read_token_ids
from gguf_embed.errors import ModelFileError
from gguf_embed.gguf_file.token_heads import LEXICAL, MLM, SPARSE

_M3 = "sparse_linear.pt"
_IDF = "idf.json"
_UNWEIGHED = ("<s>", "<pad>", "</s>", "<unk>")  # BGE-M3's tokens that get no weight
_N_LOG = {"relu": 1, "log1p_relu": 2}

_NAMES = (
    ("cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm", "cls.predictions.bias"),
    ("vocab_transform", "vocab_layer_norm", "vocab_projector.bias"),
    ("lm_head.dense", "lm_head.layer_norm", "lm_head.bias"),
    ("head.dense", "head.norm", "decoder.bias"),
)
"""The dense layer, the norm, and the decoder's bias in BERT, DistilBERT, RoBERTa and ModernBERT."""


def sparse_head(source: ModelSourceDirectory) -> Mapping[str, Any]:
    """The keys to write, see `gguf_file/token_heads.py`; none for any other model. Raises `ModelFileError`."""
    kinds = [module.kind for module in read_modules(source)]
    if (source.path / _M3).is_file():
        values = _lexical(source)
    elif "SpladePooling" in kinds or (source.path / _IDF).is_file():
        values = _mlm(source) | _query_weights(source)
    else:
        return {}
    return {SPARSE + key: value for key, value in values.items()}


def _lexical(source: ModelSourceDirectory) -> dict[str, Any]:
    tensors = read_torch_file(source.path / _M3)
    if set(tensors) != {"weight", "bias"} or tensors["weight"].shape[:1] != (1,):
        raise ModelFileError(f"{source.path / _M3}: has {', '.join(sorted(tensors))}, expected weight [1, n] and bias")
    ids = read_token_ids(source)
    skipped = tuple(sorted(ids[text] for text in _UNWEIGHED if text in ids))
    return {"kind": LEXICAL, "weight": tensors["weight"], "bias": tensors["bias"], "skipped": skipped}


def _mlm(source: ModelSourceDirectory) -> dict[str, Any]:
    source.refuse_unless("tie_word_embeddings", (True,))
    tensors = list_tensors(source.path)
    found = next((names for names in _NAMES if f"{names[0]}.weight" in tensors), None)
    if found is None:
        raise ModelFileError(f"{source.path} has no masked language head, which a SPLADE model needs")
    dense, norm, bias = found
    return {
        "kind": MLM,
        "weight": read_float32(tensors[f"{dense}.weight"]),
        "bias": _or_zeros(tensors, f"{dense}.bias", tensors[f"{dense}.weight"].shape[0]),
        "norm.weight": _required(source, tensors, f"{norm}.weight"),
        "norm.bias": _or_zeros(tensors, f"{norm}.bias", tensors[f"{dense}.weight"].shape[0]),
        "norm.epsilon": source.number("layer_norm_eps", source.number("norm_eps", 1e-12)),
        "activation": "gelu",
        "output_bias": _required(source, tensors, bias),
        "n_log": _n_log(source),
    }


def _n_log(source: ModelSourceDirectory) -> int:
    """How often the logarithm is taken. Raises `ModelFileError` for another pooling than the maximum."""
    folder = next((module.folder for module in read_modules(source) if module.kind == "SpladePooling"), None)
    config = read_json(folder / "config.json") if folder is not None else {}
    strategy, activation = config.get("pooling_strategy", "max"), config.get("activation_function", "relu")
    if strategy != "max" or activation not in _N_LOG:
        raise ModelFileError(
            f"{source.path}: SPLADE pooling {strategy!r} with {activation!r} cannot be converted (only max with "
            f"{' or '.join(_N_LOG)})"
        )
    return _N_LOG[activation]


def _query_weights(source: ModelSourceDirectory) -> dict[str, Any]:
    """The table of an inference-free model, by token; none for a model that reads queries with its network."""
    path = source.path / _IDF
    if not path.is_file():
        return {}
    ids, weights = read_token_ids(source), read_json(path)
    table = np.zeros(source.integer("vocab_size"), np.float32)
    for token, weight in weights.items():
        if ids.get(token, len(table)) < len(table) and isinstance(weight, int | float):
            table[ids[token]] = weight
    return {"query_weights": table}


def _required(source: ModelSourceDirectory, tensors: Mapping[str, StoredTensor], name: str) -> NDArray[np.float32]:
    if name not in tensors:
        raise ModelFileError(f"{source.path}: tensor {name} of the masked language head is missing")
    return read_float32(tensors[name])


def _or_zeros(tensors: Mapping[str, StoredTensor], name: str, size: int) -> NDArray[np.float32]:
    return read_float32(tensors[name]) if name in tensors else np.zeros(size, np.float32)
