"""A tiny jina-reranker-v3 with random weights, and what the original's steps give for `tests/data/listwise`.

`tests/data/make_listwise_reference.py` writes the model with it, too.
"""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np

from tests.convert.bert_directory import Weights
from tests.convert.tokenizers.decoder_directory import MODELS, N_EMBD, DecoderModel, write_decoder_directory

DATA = Path(__file__).parent / "data" / "listwise"
MARKERS = ("<|embed_token|>", "<|rerank_token|>")
N_HIDDEN, N_OUT, N_CTX = 32, 48, 16_384
MODEL = DecoderModel(
    "JinaForRanking",
    "qwen3_embedding",
    config=MODELS["qwen3_reranker"].config | {"auto_map": {"AutoModel": "modeling.JinaForRanking"}},
    prefix="model.",
)


def write_listwise(path: Path, tokenizer: dict[str, Any], **config: object) -> Path:
    """The directory, with a tokenizer of the references and the markers in it."""
    return write_decoder_directory(
        path, MODEL, with_markers(tokenizer), extra=projector(), max_position_embeddings=N_CTX, **config
    )


def with_markers(tokenizer: dict[str, Any]) -> dict[str, Any]:
    """Without the token that closes a text: the original's tokenizer adds none."""
    made = deepcopy(tokenizer)
    fast = made["tokenizer.json"]
    first = max(token["id"] for token in fast["added_tokens"]) + 1
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    fast["added_tokens"] += [{"id": first + n, "content": text} | flags for n, text in enumerate(MARKERS)]
    fast["post_processor"] = fast["post_processor"]["processors"][0]
    return made


def projector() -> Weights:
    random = np.random.RandomState(5)
    shapes = {"projector.0.weight": (N_HIDDEN, N_EMBD), "projector.2.weight": (N_OUT, N_HIDDEN)}
    return {name: (random.standard_normal(shape) * 0.3).astype(np.float32) for name, shape in shapes.items()}


def cases() -> list[dict[str, Any]]:
    """query, documents, instruction, and the original's `scores`; documents may be a text that is repeated."""
    found: list[dict[str, Any]] = json.loads((DATA / "reference.json").read_text("utf-8"))["cases"]
    return found
