"""ColBERT's projection and how its queries and documents are read, from three kinds of model directories.

sentence-transformers': Dense modules and a MultiVectorMask, prompts as prefixes. PyLate's: Dense modules without a
pooling before them, all settings in `config_sentence_transformers.json`. Stanford's: a tensor `linear.weight`,
`artifact.metadata`. BGE-M3's: `colbert_linear.pt`.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gguf_embed.convert.safetensors import list_tensors, read_float32
from gguf_embed.convert.source import ModelSourceDirectory, SourceModule, read_json, read_modules
from gguf_embed.convert.torch_file import read_torch_file
from gguf_embed.convert.vocabulary_ids import read_token_ids, special_token
from gguf_embed.errors import ModelFileError
from gguf_embed.gguf_file.token_heads import COLBERT

QUERY_LENGTH, DOCUMENT_LENGTH = 32, 180
"""PyLate's defaults for models that do not say."""

_M3 = "colbert_linear.pt"
_STANFORD = "artifact.metadata"

Values = dict[str, Any]


def is_stanford(source: ModelSourceDirectory) -> bool:
    return (source.path / _STANFORD).is_file()


def colbert_head(source: ModelSourceDirectory) -> Mapping[str, Any]:
    """The keys to write, see `gguf_file/token_heads.py`; none for any other model. Raises `ModelFileError`."""
    modules = read_modules(source)
    kinds = [module.kind for module in modules]
    if (source.path / _M3).is_file():
        values = _m3(source.path / _M3)
    elif is_stanford(source):
        values = _stanford(source)
    elif "MultiVectorMask" in kinds:
        values = _sentence_transformers(source, modules)
    elif "Dense" in kinds and "Pooling" not in kinds:
        values = _pylate(source, [module for module in modules if module.kind == "Dense"])
    else:
        return {}
    return {COLBERT + key: value for key, value in values.items()}


def _m3(path: Path) -> Values:
    tensors = read_torch_file(path)
    if set(tensors) != {"weight", "bias"} or tensors["weight"].ndim != 2:
        raise ModelFileError(f"{path} has {', '.join(sorted(tensors))}, expected a weight and a bias")
    return _projection(tensors["weight"]) | {"bias": tensors["bias"], "skips_first": True}


def _stanford(source: ModelSourceDirectory) -> Values:
    config = read_json(source.path / _STANFORD)
    stored = list_tensors(source.path).get("linear.weight")
    if stored is None:
        raise ModelFileError(f"{source.path} is a ColBERT model, but its tensor linear.weight is missing")
    ids = read_token_ids(source)
    skipped = list(string.punctuation) if config.get("mask_punctuation") else []
    return (
        _projection(read_float32(stored))
        | _reading(source, ids, str(config.get("query_token_id") or "[unused0]"), "query")
        | _reading(source, ids, str(config.get("doc_token_id") or "[unused1]"), "document")
        | _lengths(config.get("query_maxlen"), config.get("doc_maxlen"))
        | _expansion(source, ids, attended=config.get("attend_to_mask_tokens") is True)
        | {"skipped": _known(ids, skipped)}
    )


def _pylate(source: ModelSourceDirectory, modules: Sequence[SourceModule]) -> Values:
    path = source.path / "config_sentence_transformers.json"
    config = read_json(path) if path.is_file() else {}
    ids = read_token_ids(source)
    values = (
        _projection(_product(modules))
        | _reading(source, ids, config.get("query_prefix"), "query")
        | _reading(source, ids, config.get("document_prefix"), "document")
        | _lengths(config.get("query_length"), config.get("document_length"))
        | {"skipped": _known(ids, config.get("skiplist_words") or [])}
    )
    if config.get("do_query_expansion", True):
        values |= _expansion(source, ids, attended=config.get("attend_to_expansion_tokens") is True)
    return values


def _sentence_transformers(source: ModelSourceDirectory, modules: Sequence[SourceModule]) -> Values:
    config = read_json(source.path / "config_sentence_transformers.json")
    reading, mask = read_json(source.path / "sentence_bert_config.json"), _read_mask(modules)
    ids, prompts = read_token_ids(source), config.get("prompts") or {}
    values: Values = {"skipped": _known(ids, mask.get("skiplist_words") or [])}
    if dense := [module for module in modules if module.kind == "Dense"]:
        values |= _projection(_product(dense))
    for role in ("query", "document"):
        token = _token_of(ids, prompts.get(role))
        if token is not None:  # a prompt of several tokens stays a prompt
            values[f"{role}_prefix"] = (token,)
        if isinstance(reading.get(f"{role}_length"), int):
            values[f"{role}_length"] = reading[f"{role}_length"]
    expansion = reading.get("query_expansion")
    if not isinstance(expansion, dict):
        return values
    length, token_text = expansion.get("length"), expansion.get("token")
    values |= _expansion(source, ids, attended=expansion.get("attend") is True, token=token_text)
    values["expansion_length"] = length
    return values | {"query_length": length} if expansion.get("strategy") == "fixed" else values


def _read_mask(modules: Sequence[SourceModule]) -> Values:
    folder = next(module.folder for module in modules if module.kind == "MultiVectorMask")
    config = read_json(folder / "config.json")
    if config.get("skiplist_tasks") not in (None, ["document"]) or config.get("keep_only_token_ids"):
        raise ModelFileError(f"{folder}: only a list of words that documents skip can be converted")
    return config


def prefix_roles(values: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of prompts that are prefixes of the head, so they must not be added as text, too."""
    return tuple(role for role in ("query", "document") if f"{COLBERT}{role}_prefix" in values)


def _projection(weight: NDArray[np.float32]) -> Values:
    return {"weight": weight, "dimensions": int(weight.shape[0])}


def _product(modules: Sequence[SourceModule]) -> NDArray[np.float32]:
    """The matrices of Dense modules without activations, multiplied into one."""
    product: NDArray[np.float32] | None = None
    for module in modules:
        config, tensors = read_json(module.folder / "config.json"), list_tensors(module.folder)
        activation = str(config.get("activation_function", "Identity")).rpartition(".")[2]
        if activation != "Identity" or set(tensors) != {"linear.weight"} or config.get("use_residual"):
            raise ModelFileError(
                f"{module.folder}: only Dense modules without activation, bias and residual can be converted, found "
                f"{activation} and {', '.join(sorted(tensors))}"
            )
        weight = read_float32(tensors["linear.weight"])
        if weight.ndim != 2 or (product is not None and weight.shape[1] != len(product)):
            raise ModelFileError(f"{module.folder}: linear.weight is {weight.shape}, which does not fit what it reads")
        product = weight if product is None else weight @ product
    assert product is not None
    return product


def _reading(source: ModelSourceDirectory, ids: Mapping[str, int], prefix: object, name: str) -> Values:
    """The prefix of queries or documents, which is one token."""
    if not prefix:
        return {}
    token = _token_of(ids, prefix)
    if token is None:
        raise ModelFileError(f"{source.path}: the prefix {prefix!r} of a {name} is not a token of its tokenizer")
    return {f"{name}_prefix": (token,)}


def _token_of(ids: Mapping[str, int], text: object) -> int | None:
    return ids.get(text, ids.get(text.strip())) if isinstance(text, str) else None


def _lengths(query: object, document: object) -> Values:
    return {
        "query_length": query if isinstance(query, int) else QUERY_LENGTH,
        "document_length": document if isinstance(document, int) else DOCUMENT_LENGTH,
    }


def _expansion(
    source: ModelSourceDirectory, ids: Mapping[str, int], *, attended: bool, token: str | None = None
) -> Values:
    mask = (
        token
        or special_token(source, "mask_token")
        or next((text for text in ("[MASK]", "<mask>") if text in ids), None)
    )
    if mask is None or mask not in ids:
        return {}
    return {"expansion_token": ids[mask], "expansion_attended": attended}


def _known(ids: Mapping[str, int], words: Sequence[object]) -> tuple[int, ...]:
    return tuple(sorted({ids[word] for word in words if isinstance(word, str) and word in ids}))
