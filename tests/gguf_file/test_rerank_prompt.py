"""Where an instruction stands in a rerank template."""

from __future__ import annotations

import pytest

from gguf_embed.errors import InvalidRequest
from gguf_embed.gguf_file.rerank_prompt import QWEN3_RERANK_PROMPT, with_place_for_instruction
from gguf_embed.preprocessing.pairs import PairForm


def test_an_instruction_has_the_rest_of_its_line():
    template = "<|im_start|><Instruct>: Given a query\n<Query>: {query}\n<Document>: {document}<|im_end|>"
    place = "<|im_start|><Instruct>: {instruction}\n<Query>: {query}\n<Document>: {document}<|im_end|>"
    assert with_place_for_instruction(template) == place
    assert "<Instruct>: {instruction}\n<Query>: {query}\n" in (with_place_for_instruction(QWEN3_RERANK_PROMPT) or "")


@pytest.mark.parametrize("template", ["", "{query} {document}", "Instruct: {query} {document}"])
def test_a_template_without_a_place_takes_none(template):
    assert with_place_for_instruction(template) is None
    assert PairForm(template).filled_template() == template
    with pytest.raises(InvalidRequest, match="not made for instructions"):
        PairForm(template, instruction="Find animals").filled_template()
