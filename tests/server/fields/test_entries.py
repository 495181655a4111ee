"""An error names all entries of an array that are wrong, whatever the route."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from gguf_embed.errors import InvalidRequest
from gguf_embed.server.dialects.cohere.embed import parse_cohere_embed
from gguf_embed.server.dialects.ollama.embed import parse_embed as parse_ollama
from gguf_embed.server.dialects.openai.contextualized import parse_contextualized
from gguf_embed.server.dialects.openai.embeddings import parse_openai_embed
from gguf_embed.server.dialects.openai.multimodal import check_inputs
from gguf_embed.server.dialects.tei import predict, tokens
from gguf_embed.server.dialects.tei.embed import parse_embed, parse_similarity
from gguf_embed.server.dialects.tei.pairs import parse_pairs
from gguf_embed.server.dialects.vllm import classify
from gguf_embed.server.dialects.vllm.score import parse_score
from gguf_embed.server.fields.entries import parse_each, text_or_texts
from gguf_embed.server.fields.rerank import RerankDefaults, parse_rerank

WRONG = ["a", None, "b", 2.5, "c"]


def rerank(body: dict[str, Any], max_inputs: int) -> object:
    return parse_rerank(body, max_inputs, RerankDefaults())


@pytest.mark.parametrize(
    ("parse", "body", "begins", "indexes"),
    [
        (parse_openai_embed, {"input": ["a", {}, "b", {}]}, '"input[1]"', (1, 3)),
        (rerank, {"query": "q", "documents": WRONG}, '"documents[1]"', (1, 3)),
        (rerank, {"query": "q", "documents": [{"no": 1}, "a", {}]}, '"documents[0]" has no text', (0, 2)),
        (rerank, {"query": "q", "passages": [{"text": "a", "image": "b"}] * 2}, '"passages[0]" has an', (0, 1)),
        (parse_ollama, {"model": "m", "input": WRONG}, 'invalid input type: "input[1]"', ()),
        (parse_embed, {"inputs": ["a", {}, "b", {}]}, '"inputs[1]"', (1, 3)),
        (parse_similarity, {"inputs": {"source_sentence": "a", "sentences": WRONG}}, '"inputs.sentences[1]"', (1, 3)),
        (parse_pairs, {"texts": WRONG}, '"texts[1]"', (1, 3)),
        (predict.parse_texts, {"inputs": [["a"], 1, ["b"], 2]}, '"inputs[1]"', (1, 3)),
        (tokens.parse_texts, {"inputs": WRONG}, '"inputs[1]"', (1, 3)),
        (tokens.parse_ids, {"ids": [[1], "a", [2], "b"]}, '"ids[1]"', (1, 3)),
        (parse_cohere_embed, {"texts": WRONG}, '"texts[1]"', (1, 3)),
        (parse_cohere_embed, {"inputs": [{"content": "x"}, {"content": 1}]}, '"inputs[0].content"', (0, 1)),
        (parse_contextualized, {"inputs": [["a"], [], ["b"], [1]]}, '"inputs[1]"', (1, 3)),
        (lambda body, _: check_inputs(body), {"inputs": [{"content": []}, 1, 2]}, '"inputs[1]"', (1, 2)),
        (classify.parse_texts, {"input": WRONG}, '"input[1]"', (1, 3)),
        (parse_score, {"queries": "q", "documents": WRONG}, '"documents[1]"', (1, 3)),
    ],
)
def test_every_parser_names_all_wrong_entries(parse: Callable[..., object], body, begins, indexes):
    with pytest.raises(InvalidRequest) as caught:
        parse(body, 100)
    assert caught.value.message.startswith(begins)
    assert "; also wrong: " in caught.value.message
    assert getattr(caught.value, "indexes", ()) == indexes


def test_one_wrong_entry_is_named_with_its_index():
    with pytest.raises(InvalidRequest) as caught:
        rerank({"query": "q", "documents": ["a", None]}, 100)
    assert (caught.value.index, caught.value.param) == (1, "documents")
    assert "also wrong" not in caught.value.message


def test_each_entry_is_parsed_with_its_index():
    assert parse_each(["a", "b"], lambda entry, index: f"{entry}{index}") == ("a0", "b1")
    assert parse_each([], lambda entry, index: entry) == ()


@pytest.mark.parametrize(("value", "texts"), [("a", ("a",)), (["a", "b"], ("a", "b"))])
def test_a_text_or_several(value, texts):
    assert text_or_texts(value, "input") == texts


@pytest.mark.parametrize("value", [None, [], 1, {}])
def test_what_is_neither_a_text_nor_texts_is_refused(value):
    with pytest.raises(InvalidRequest, match="a string or a non-empty array of strings"):
        text_or_texts(value, "input")
