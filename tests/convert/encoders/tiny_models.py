"""The tiny encoders of `tests/data/convert` as directories, and transformers' results for them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gguf_embed.engines.llama.engine import LlamaEngine, LlamaEngineConfig
from gguf_embed.types import Pooling
from tests.data.tiny_weights import Weights, make_weights, write_safetensors
from tests.engines.contexts import context_spec

DATA = Path(__file__).parent.parent.parent / "data" / "convert"
OWN = DATA.with_name("encoders")
"""What llama.cpp does not compute, or not as a whole."""

EMBEDDERS = (
    "bert",
    "bert_unigram",
    "distilbert",
    "roberta",
    "xlm_roberta",
    "nomic_bert",
    "modern_bert",
    "modern_bert_silu",
)
RERANKERS = (
    "bert_reranker",
    "roberta_reranker",
    "xlm_roberta_reranker",
    "modern_bert_reranker",
    "modern_bert_reranker_cls",
)
_STORED = json.loads((DATA / "texts.json").read_text("utf-8"))
TEXTS: list[str] = _STORED["texts"]
DENSE = "2_Dense"
OWN_TEXTS: list[str] = json.loads((OWN / "texts.json").read_text("utf-8"))["texts"]
PAIRS: list[tuple[str, str]] = [tuple(pair) for pair in _STORED["pairs"]]

Array = NDArray[Any]


def folder_of(name: str) -> Path:
    """Where the model is stored."""
    return next(data / name for data in (DATA, OWN) if (data / name).is_dir())


def write_directory(name: str, path: Path, **config: object) -> Path:
    """The model as a hub repository has it; `config` overrides entries of config.json (None removes one)."""
    shutil.copytree(folder_of(name), path, ignore=shutil.ignore_patterns("weights.json", "tokenizer", "reference.npz"))
    write_safetensors(path / "model.safetensors", weights_of(name))
    if (path / DENSE).is_dir():
        write_safetensors(path / DENSE / "model.safetensors", weights_of(f"{name}/{DENSE}"))
    folder = folder_of(name)
    tokenizer = (folder / "tokenizer").read_text()
    shutil.copy(folder.parent / "tokenizers" / f"{tokenizer}.json", path / "tokenizer.json")
    shutil.copy(folder.parent / "tokenizers" / f"{tokenizer}_config.json", path / "tokenizer_config.json")
    change_json(path / "config.json", **config)
    return path


def weights_of(name: str) -> Weights:
    stored = json.loads((folder_of(name) / "weights.json").read_text())
    return make_weights(stored["shapes"], stored["scale"])


def change_json(path: Path, **entries: object) -> None:
    content = json.loads(path.read_text("utf-8")) | entries
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}), "utf-8")


def reference(name: str) -> dict[str, Array]:
    with np.load(folder_of(name) / "reference.npz") as stored:
        return dict(stored)


def ids_of(stored: dict[str, Array]) -> list[list[int]]:
    return [part.tolist() for part in np.split(stored["ids"], np.cumsum(stored["n_ids"])[:-1])]


def open_engine(path: Path, *, rank_head: bool = False) -> LlamaEngine:
    return LlamaEngine(LlamaEngineConfig(path, rank_head=rank_head))


def rows(engine: LlamaEngine, batch: Sequence[Sequence[int]], pooling: Pooling) -> Array:
    """All texts in one batch, as a server runs them."""
    n_tokens = sum(map(len, batch))
    context = engine.open_context(context_spec(pooling, n_tokens, len(batch), flash_attention=False))
    try:
        return context.embed(batch, 1).matrix.copy()
    finally:
        context.close()


def cosines(a: Array, b: Array) -> Array:
    return (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
