"""What a rerank body means and how a result is written, by shape: pure functions."""

from __future__ import annotations

import json
from functools import partial

import numpy as np
import pytest

from gguf_embed.errors import InvalidRequest
from gguf_embed.server.dialects.cohere import rerank as cohere
from gguf_embed.server.dialects.llama import rerank as llama
from gguf_embed.server.fields.rerank import RerankDefaults, parse_rerank
from gguf_embed.server.fields.rerank_reply import ranking
from gguf_embed.types import (
    AppliedPrompt,
    OutputSpec,
    Pooling,
    RerankRequest,
    RerankResult,
    ScoreKind,
    Truncation,
    Usage,
)
from tests.server.fake_service import MODEL

BODY = {"query": "q", "documents": ["a", "b"]}


JINA = partial(llama.format_jina, body={}), RerankDefaults()
TEI = llama.format_tei, RerankDefaults()
COHERE = cohere.format_rerank, cohere.DEFAULTS
SHAPES = (JINA, TEI, COHERE)


def parse(shape=JINA, **fields):
    return parse_rerank(BODY | fields, 4, shape[1])


def written(parsed, *scores, shape=JINA, **changes):
    result = RerankResult(MODEL, np.array(scores, np.float32), ScoreKind.LOGIT, Usage(12), **changes)
    return json.loads(shape[0](parsed, result))


@pytest.mark.parametrize(
    ("shape", "raw_scores", "truncate"),
    [(JINA, True, None), (TEI, True, None), (COHERE, False, True)],
)
def test_each_shape_has_its_defaults(shape, raw_scores, truncate):
    request = parse(shape).request
    assert request == RerankRequest("q", ("a", "b"), raw_scores=raw_scores, truncate=truncate)


def test_all_fields():
    parsed = parse(
        model="m", method="embedding", truncate=True, max_tokens_per_doc=7, pooling="cls",
        use_prompts=True, top_n=1, return_documents=True, truncation_direction="Right", user="ignored",
    )  # fmt: skip
    assert parsed.request == RerankRequest(
        "q", ("a", "b"), "m", "embedding", True, None, True, 7, OutputSpec.of(Pooling.CLS), use_prompts=True
    )
    assert (parsed.top_n, parsed.return_documents) == (1, True)
    assert parse(raw_scores=False, label=1).request == RerankRequest("q", ("a", "b"), raw_scores=False, label="1")


@pytest.mark.parametrize("name", ["return_text", "return_documents"])
@pytest.mark.parametrize("shape", SHAPES)
def test_both_names_ask_for_the_documents_in_every_shape(shape, name):
    assert parse(shape, **{name: True}).return_documents
    assert not parse(shape, **{name: False}).return_documents


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"method": "embedding", "label": "yes"}, "label"),
        ({"method": "embedding", "raw_scores": False}, "raw_scores"),
        ({"pooling": "mean"}, "pooling"),
        ({"use_prompts": True}, "use_prompts"),
        ({"method": "rank", "pooling": "cls", "use_prompts": True}, "pooling"),
        ({"documents": ["a"], "texts": ["b"]}, "texts"),
        ({"texts": ["b"], "documents": None, "passages": ["c"]}, "passages"),
        ({"instruct": "rank"}, "instruct"),
        ({"instruction": "rank", "method": "embedding"}, "instruction"),
        ({"max_chunks_per_doc": 3}, "max_chunks_per_doc"),
        ({"top_k": 1, "top_n": 2}, "top_k"),
        ({"raw_scores": True, "use_activation": True}, "use_activation"),
        ({"on_error": "skip"}, "on_error"),
        ({"long_input": "chunk_mean"}, "long_input"),
    ],
)
@pytest.mark.parametrize("shape", SHAPES)
def test_fields_that_would_be_ignored_are_refused(shape, fields, param):
    with pytest.raises(InvalidRequest, match=f'"{param}"') as caught:
        parse(shape, **fields)
    assert caught.value.param == param


def test_on_coheres_route_cosines_need_no_other_field():
    assert parse(COHERE, method="embedding").request.method == "embedding"
    assert parse(COHERE, method="embedding", raw_scores=True).request.raw_scores


@pytest.mark.parametrize(
    ("documents", "rank_fields", "read"),
    [
        (["a", {"text": "b"}], None, ("a", "b")),
        ([{"text": "a", "title": "t"}], None, ("a",)),
        ([{"title": "t", "text": "a"}], ["title"], ("t",)),
        ([{"title": "t", "text": "a", "n": 3}], ["title", "n", "text"], ("title: t\nn: 3\ntext: a",)),
        ([{"title": "t"}, {"title": "u", "ok": True}], ["title", "ok"], ("title: t", "title: u\nok: true")),
        ([{"text": ""}, ""], None, ("", "")),
    ],
)
def test_documents_are_strings_or_objects(documents, rank_fields, read):
    assert parse(documents=documents, rank_fields=rank_fields).request.documents == read


def test_texts_are_read_where_there_are_no_documents():
    assert parse(TEI, documents=None, texts=["x"]).request.documents == ("x",)


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"query": None}, "query", '"query" must be provided'),
        ({"query": ["q"]}, "query", '"query" must be a string, found an array of 1'),
        (
            {"documents": []},
            "documents",
            '"documents" must be a non-empty array of strings, or of objects .*, found an',
        ),
        ({"documents": "a"}, "documents", "non-empty array of strings, or of objects with a text in them, found the"),
        ({"documents": None}, "documents", '"documents" must be provided: a non-empty array of strings'),
        ({"documents": None, "texts": {}}, "texts", '"texts" must be a non-empty array of strings'),
        ({"documents": list("abcde")}, "documents", "5 entries, the limit per request is 4"),
        ({"documents": ["a", 3]}, "documents", r'"documents\[1\]" must be a string or an object'),
        ({"documents": None, "texts": ["a", 3]}, "texts", r'"texts\[1\]" must be a string or an object'),
        ({"documents": [{"title": "t"}]}, "documents", r'"documents\[0\]" has no text in "text"'),
        ({"documents": [{"text": ["t"]}]}, "documents", "has no text"),
        ({"rank_fields": []}, "rank_fields", "non-empty string array"),
        ({"rank_fields": [1]}, "rank_fields", "non-empty string array"),
        ({"top_n": -2}, "top_n", "an integer of at least -1"),
        ({"top_n": "3"}, "top_n", "an integer of at least -1"),
        ({"raw_scores": "no"}, "raw_scores", "true or false"),
        ({"method": "cosine"}, "method", 'one of "rank", "embedding"'),
        ({"pooling": "none"}, "pooling", "one of"),
        ({"truncation_direction": "up"}, "truncation_direction", 'must be one of "Left", "Right", found'),
        ({"truncate": "middle"}, "truncate", '"NONE", "END" or "START", found'),
        ({"max_tokens_per_doc": 0}, "max_tokens_per_doc", "at least 1"),
        ({"return_documents": 1}, "return_documents", "true or false"),
        ({"label": True}, "label", "must be a string"),
    ],
)
def test_bad_fields_are_named(fields, param, message):
    with pytest.raises(InvalidRequest, match=message) as caught:
        parse(**fields)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("scores", "top_n", "order"),
    [([1, 3, 2], None, [1, 2, 0]), ([1, 3, 2], 2, [1, 2]), ([1, 1, 1], None, [0, 1, 2]), ([1], 9, [0])],
)
def test_the_best_come_first_and_equal_ones_in_their_order(scores, top_n, order):
    result = RerankResult(MODEL, np.array(scores, np.float32), ScoreKind.LOGIT, Usage(1))
    assert ranking(result, top_n) == order


def test_jinas_shape():
    assert written(parse(), -1.5, 2) == {
        "model": "tiny",
        "object": "list",
        "usage": {"prompt_tokens": 12, "total_tokens": 12},
        "results": [{"index": 1, "relevance_score": 2.0}, {"index": 0, "relevance_score": -1.5}],
        "score_kind": "logit",
    }


def test_infinitys_clients_get_its_word():
    infinity = partial(llama.format_jina, body={"raw_scores": False}), RerankDefaults()
    assert written(parse(shape=infinity), 1.0, 2.0, 3.0, shape=infinity)["object"] == "rerank"


def test_documents_come_back_as_they_were_sent_but_never_bare():
    reply = written(parse(documents=["a", {"text": "b", "id": 7}], return_documents=True), 1, 2)
    assert [item["document"] for item in reply["results"]] == [{"text": "b", "id": 7}, {"text": "a"}]


def test_teis_shape_is_a_bare_array():
    assert written(parse(TEI), 1, 2, shape=TEI) == [{"index": 1, "score": 2.0}, {"index": 0, "score": 1.0}]
    cuts = (Truncation(0, 20, 16),)
    assert written(parse(TEI, return_text=True, top_n=2), 3, 2, shape=TEI, truncated=cuts) == [
        {"index": 0, "score": 3.0, "text": "a", "truncated": {"n_tokens": 20, "n_kept": 16, "n_dropped": 4}},
        {"index": 1, "score": 2.0, "text": "b"},
    ]


def test_coheres_shape():
    reply = written(parse(COHERE), 1, 2, shape=COHERE, truncated=(Truncation(1, 20, 16),))
    assert len(reply.pop("id")) == 32
    assert reply == {
        "results": [{"index": 1, "relevance_score": 2.0}, {"index": 0, "relevance_score": 1.0}],
        "meta": {
            "api_version": {"version": "2"},
            "billed_units": {"search_units": 1},
            "tokens": {"input_tokens": 12},
            "warnings": ["document 1 was cut: 16 of 20 tokens were read, the query's included"],
        },
        "model": "tiny",
        "score_kind": "logit",
        "truncated": [{"index": 1, "n_tokens": 20, "n_kept": 16, "n_dropped": 4}],
    }


def test_the_warning_of_a_cut_document_counts_the_query_only_where_it_was_read_with_it():
    result = RerankResult(
        MODEL, np.array([0.5, 0.1], np.float32), ScoreKind.COSINE, Usage(12), truncated=(Truncation(1, 20, 16),)
    )
    reply = json.loads(cohere.format_rerank(parse(COHERE), result))
    assert reply["meta"]["warnings"] == ["document 1 was cut: 16 of 20 tokens were read"]


def test_the_reply_has_the_prompts_that_were_added():
    reply = written(parse(), 1, 2, prompts=(AppliedPrompt("query", "q: "), AppliedPrompt("document", "d: ")))
    assert reply["prompt"] == {
        "query": {"name": "query", "text": "q: "},
        "document": {"name": "document", "text": "d: "},
    }
