"""The prompt with which a decoder scores a query and a document, as a GGUF stores it."""

from __future__ import annotations

import re
from typing import Final

RERANK_TEMPLATE: Final = "tokenizer.chat_template.rerank"
"""The metadata key; its value has the placeholders {query} and {document}, which llama.cpp's server fills."""

QWEN3_RERANK_PROMPT: Final = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
    'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n<Instruct>: Given a web '
    "search query, retrieve relevant passages that answer the query\n<Query>: {query}\n<Document>: {document}"
    "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
)
"""From the card of Qwen/Qwen3-Reranker-0.6B."""

INSTRUCTION: Final = "{instruction}"

_INSTRUCTED = re.compile(r"(<Instruct>:[ \t]*)[^\n<{]*")


def with_place_for_instruction(template: str) -> str | None:
    """The template with `{instruction}` in place of its own, which is the rest of the line after `<Instruct>:`.

    None for a template that has none.
    """
    changed, n = _INSTRUCTED.subn(lambda found: found[1] + INSTRUCTION, template, count=1)
    return changed if n else None
