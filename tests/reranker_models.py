"""The tiny rerankers of `tests/data/rerank`, converted, and what transformers answered with them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from gguf_embed.convert.convert import convert_directory
from tests.convert.encoders import tiny_models
from tests.convert.tokenizers.decoder_directory import MODELS, write_decoder_directory
from tests.convert.tokenizers.references import reference_tokenizers

DATA = Path(__file__).parent / "data" / "rerank"
ENCODERS = ("bert_reranker", "xlm_roberta_reranker", "roberta_reranker", "modern_bert_reranker")
QWEN = "qwen3_reranker"
ALL = (*ENCODERS, QWEN)


@dataclass(frozen=True, slots=True)
class Case:
    """One pair as transformers reads it, and the head's numbers (Qwen3: p("yes"))."""

    query: str
    document: str
    cut: int | None  # the pair's tokens at most, for Qwen3 the document's
    ids: list[int]
    scores: list[float]
    one_type: list[float] | None = None  # the same without the second token type


@cache
def _stored() -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = json.loads((DATA / "reference.json").read_text("utf-8"))
    return found


def reference(name: str, *, cut: bool = False) -> list[Case]:
    """The whole pairs or the cut ones."""
    return [case for case in (Case(**stored) for stored in _stored()[name]) if (case.cut is not None) is cut]


def write_reranker(name: str, folder: Path, outtype: str = "f32") -> Path:
    """Convert one of them into `folder`."""
    source, output = folder / f"{name}-hf", folder / f"{name}-{outtype}.gguf"
    if name == QWEN:
        model = MODELS[QWEN]
        tokenizer = reference_tokenizers()[model.tokenizer]
        write_decoder_directory(source, model, tokenizer, _name_or_path="Qwen/Qwen3-Reranker-0.6B")
    else:
        tiny_models.write_directory(name, source)
    convert_directory(source, output, outtype, report=lambda line: None)
    return output
