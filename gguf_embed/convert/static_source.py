"""Reads a static model's directory, saved by Model2Vec or sentence-transformers: rows, weights, mapping, tokenizer."""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

from gguf_embed.convert.safetensors import StoredTensor, list_tensors
from gguf_embed.convert.source import ModelSourceDirectory, read_json, read_modules
from gguf_embed.errors import ModelFileError

_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I8": "i1", "I32": "<i4", "I64": "<i8"}
_TABLE_NAMES = {"embeddings": "model2vec", "embedding.weight": "sentence-transformers"}
_MODULE = "StaticEmbedding"


@dataclass(frozen=True, slots=True)
class StaticDirectory:
    """The contents of one directory; the rows stay on disk."""

    source: ModelSourceDirectory
    kind: str  # "model2vec" or "sentence-transformers"
    table: StoredTensor
    weights: NDArray[np.float32] | None  # per token
    mapping: NDArray[np.int32] | None  # token → row of the table
    normalize: bool
    tokenizer_json: str
    tokens: tuple[str, ...]
    types: tuple[int, ...]  # gguf.TokenType of each
    unknown_id: int | None


def find_static(path: Path) -> Path | None:
    """The folder with the rows and the tokenizer of a static model's directory; None for any other directory.

    A static model has a "model2vec" config, StaticEmbedding as its first module, or weights with a table of rows.
    """
    modules = read_modules(ModelSourceDirectory(path, {}))
    if modules:
        return modules[0].folder if modules[0].kind == _MODULE else None
    config = read_json(path / "config.json") if (path / "config.json").is_file() else {}
    architectures = config.get("architectures")
    names = architectures if isinstance(architectures, list) else []
    if config.get("model_type") == "model2vec" or "StaticModel" in names:
        return path
    for folder in (path, path / "0_StaticEmbedding"):
        files = (folder / "model.safetensors", folder / "tokenizer.json")
        if all(file.is_file() for file in files) and _TABLE_NAMES.keys() & list_tensors(folder).keys():
            return folder
    return None


def read_static(path: Path) -> StaticDirectory:
    """Read everything except the rows. Raises `ModelFileError` if a part is missing or does not fit the others."""
    folder = find_static(path)
    if folder is None:
        raise ModelFileError(f"{path} is not a static model (Model2Vec or sentence-transformers' StaticEmbedding)")
    config = read_json(path / "config.json") if (path / "config.json").is_file() else {}
    source = ModelSourceDirectory(path, config)
    further = [module.kind for module in read_modules(source)[1:]]
    if set(further) - {"Normalize"}:
        raise ModelFileError(f"{path}: {', '.join(further)} after the rows cannot be converted (only Normalize)")
    stored = list_tensors(folder)
    name = _table_name(folder, stored)
    table = stored[name]
    weights, mapping = _vector(stored, "weights"), _vector(stored, "mapping")
    n_tokens = table.shape[0] if mapping is None else len(mapping)
    _check_weights(path, weights, n_tokens)
    _check_mapping(path, mapping, table.shape[0])
    text = _read_tokenizer(folder / "tokenizer.json")
    tokenizer = _StaticTokenizer(folder / "tokenizer.json", json.loads(text))
    tokens, types = tokenizer.vocabulary(n_tokens)
    return StaticDirectory(
        source=source,
        kind=_TABLE_NAMES[name],
        table=table,
        weights=None if weights is None else weights.astype(np.float32),
        mapping=None if mapping is None else mapping.astype(np.int32),
        normalize=bool(config.get("normalize", "Normalize" in further)),
        tokenizer_json=text,
        tokens=tokens,
        types=types,
        unknown_id=tokenizer.unknown_id,
    )


def _table_name(folder: Path, stored: dict[str, StoredTensor]) -> str:
    name = next((name for name in _TABLE_NAMES if name in stored), None)
    if name is None or len(stored[name].shape) != 2 or 0 in stored[name].shape:
        raise ModelFileError(f"{folder}: model.safetensors has no table {' or '.join(_TABLE_NAMES)}")
    return name


def read_values(tensor: StoredTensor) -> NDArray[np.generic]:
    """A tensor as stored, mapped from disk; BF16 as uint16, the upper halves of float32.

    Raises `ModelFileError` for a type that no static model has.
    """
    if tensor.dtype not in _DTYPES:
        raise ModelFileError(
            f"{tensor.path}: tensors of type {tensor.dtype} cannot be converted ({', '.join(_DTYPES)})"
        )
    dtype = np.dtype(_DTYPES[tensor.dtype])
    if prod(tensor.shape) * dtype.itemsize != tensor.end - tensor.begin:
        raise ModelFileError(f"{tensor.path} has a tensor whose size does not fit its shape; fetch the file again")
    return np.memmap(tensor.path, dtype, "r", offset=tensor.begin, shape=tensor.shape).view(np.ndarray)


def _vector(stored: dict[str, StoredTensor], name: str) -> NDArray[np.generic] | None:
    if name not in stored:
        return None
    values = read_values(stored[name])
    if values.ndim != 1 or stored[name].dtype == "BF16":
        raise ModelFileError(f"{stored[name].path}: tensor {name} is not a list of numbers")
    return np.array(values)


def _check_weights(path: Path, weights: NDArray[np.generic] | None, n_tokens: int) -> None:
    if weights is not None and (len(weights) != n_tokens or not np.isfinite(weights).all()):
        raise ModelFileError(f"{path} has {len(weights)} weights for {n_tokens} tokens, or some that are not finite")


def _check_mapping(path: Path, mapping: NDArray[np.generic] | None, n_rows: int) -> None:
    if mapping is not None and not (len(mapping) and mapping.min() >= 0 and mapping.max() < n_rows):
        raise ModelFileError(f"{path}: its mapping refers to rows outside the {n_rows} of the table")


def _read_tokenizer(path: Path) -> str:
    read_json(path)  # its errors are clearer
    return path.read_text(encoding="utf-8")


class _StaticTokenizer:
    """A parsed tokenizer.json: the ids of all tokens, and which is the unknown one."""

    def __init__(self, path: Path, tokenizer: dict[str, Any]) -> None:
        self._path = path
        model = tokenizer.get("model") or {}
        added = tokenizer.get("added_tokens") or []
        self._ids = _ids_of(model.get("vocab") or {})
        self._ids |= {entry["content"]: entry["id"] for entry in added}
        self._control = {entry["content"] for entry in added if entry.get("special")}
        self.unknown_id = self._find_unknown(model)

    def _find_unknown(self, model: dict[str, Any]) -> int | None:
        """As the `model2vec` package finds it."""
        if model.get("type") == "Unigram":
            return model.get("unk_id")
        return self._ids.get(model.get("unk_token") or "")

    def vocabulary(self, n_tokens: int) -> tuple[tuple[str, ...], tuple[int, ...]]:
        """Tokens and their types by id. Raises `ModelFileError` for an id of `n_tokens` or more."""
        largest = max(self._ids.values(), default=-1)
        if largest >= n_tokens:
            raise ModelFileError(f"{self._path} has token ids up to {largest}, but the table has rows for {n_tokens}")
        tokens = [f"[PAD{token}]" for token in range(n_tokens)]
        types = [int(gguf.TokenType.UNUSED)] * n_tokens
        for text, token in self._ids.items():
            tokens[token] = text
            types[token] = int(gguf.TokenType.CONTROL if text in self._control else gguf.TokenType.NORMAL)
        if self.unknown_id is not None:
            types[self.unknown_id] = int(gguf.TokenType.UNKNOWN)
        return tuple(tokens), tuple(types)


def _ids_of(vocab: Any) -> dict[str, int]:
    """Ids by token: a dict has them, Unigram's list of [token, score] is in their order."""
    if isinstance(vocab, list):
        return {entry[0]: index for index, entry in enumerate(vocab)}
    return dict(vocab)
