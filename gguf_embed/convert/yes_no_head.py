"""Qwen3-Reranker: a decoder whose score is the probability of "yes" against "no" as its next token.

llama.cpp uses the rows of the two words in the output head as rank head and computes the softmax of both
(`llm_graph_context::build_pooling`), so the first score is the probability of "yes".
"""

from __future__ import annotations

import re

import gguf

from gguf_embed.convert.fast_tokenizer import read_fast_tokenizer
from gguf_embed.convert.plan import PlannedTensor
from gguf_embed.convert.safetensors import list_tensors
from gguf_embed.convert.source import ModelSourceDirectory, read_pooling
from gguf_embed.errors import ModelFileError
from gguf_embed.gguf_file.rerank_prompt import QWEN3_RERANK_PROMPT

_LABELS = ("yes", "no")


def is_yes_no_reranker(source: ModelSourceDirectory) -> bool:
    """Whether this Qwen3 is a reranker. Its config looks like any other decoder's, so only its name shows it.

    As in llama.cpp's converter, the name of the folder, the config and the heading of the model card count. If
    sentence-transformers' files declare a pooling, it is an embedding model in any case.
    """
    if read_pooling(source) is not None:
        return False
    card = source.path / "README.md"
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    names = (source.path.resolve().name, source.text("_name_or_path"))
    heading = re.search("^# qwen3-reranker", text, re.IGNORECASE | re.MULTILINE)
    return heading is not None or any("qwen3-reranker" in name.lower() for name in names)


def plan_yes_no_head(source: ModelSourceDirectory) -> PlannedTensor:
    """The rank head, as F32. Raises `ModelFileError` if the words are not tokens or the output head is missing."""
    vocab = read_fast_tokenizer(source).model["vocab"]
    missing = [word for word in _LABELS if word not in vocab]
    if missing:
        raise ModelFileError(f"{source.path}: the reranker's vocabulary has no token {missing[0]!r}")
    tied = bool(source.config.get("tie_word_embeddings"))
    wanted = ("model.embed_tokens.weight", "embed_tokens.weight") if tied else ("lm_head.weight",)
    stored = list_tensors(source.path)
    head = next((stored[name] for name in wanted if name in stored), None)
    if head is None:
        raise ModelFileError(f"{source.path}: the reranker's output head {wanted[0]} is missing")
    rows = tuple(int(vocab[word]) for word in _LABELS)
    return PlannedTensor("cls.output.weight", head, gguf.GGMLQuantizationType.F32, rows=rows)


def write_yes_no_head(writer: gguf.GGUFWriter) -> None:
    """Write the labels, which llama.cpp counts for the number of scores, and the prompt as chat template "rerank"."""
    writer.add_classifier_output_labels(list(_LABELS))
    writer.add_chat_template([{"name": "rerank", "template": QWEN3_RERANK_PROMPT}])
