"""Every API's word for the same field works on every route; what cannot be honored is refused by its name."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gguf_embed.errors import InvalidRequest
from gguf_embed.server.dialects.cohere.embed import parse_cohere_embed
from gguf_embed.server.dialects.llama.embedding import parse_llama_embed
from gguf_embed.server.dialects.ollama.embed import parse_embed as parse_ollama
from gguf_embed.server.dialects.ollama.embed import parse_embeddings
from gguf_embed.server.dialects.openai.embeddings import parse_openai_embed
from gguf_embed.server.dialects.tei.embed import parse_embed as parse_tei
from gguf_embed.server.dialects.tei.embed import parse_similarity
from gguf_embed.server.fields import head_outputs
from gguf_embed.server.fields.aliases import (
    CUT_WORDS,
    CUTTING,
    DIMENSIONS,
    DOCUMENTS,
    INPUTS,
    NORMALIZE,
    RAW_SCORES,
    RETURN_DOCUMENTS,
    TOP_N,
    UNSUPPORTED,
    UNSUPPORTED_IF_FALSE,
)
from gguf_embed.server.fields.rerank import RerankDefaults, parse_rerank
from gguf_embed.types import EmbedRequest

OWN = {"openai": "input", "llama": "content", "cohere": "texts", "tei": "inputs", "ollama": "input", "older": "prompt"}
ROUTES = tuple(OWN)


def parse(route: str, **fields: object) -> EmbedRequest:
    """The request that a body with these fields becomes, with a text in the route's own field unless they have one."""
    body = {"model": "m", **fields}
    if not any(name in fields for name in (*INPUTS, "prompt")):
        body[OWN[route]] = ["a"] if route == "cohere" else "a"
    match route:
        case "openai":
            return parse_openai_embed(body, 9).request
        case "llama":
            return parse_llama_embed(body, 9).request
        case "cohere":
            return parse_cohere_embed(body, 9).request
        case "tei":
            return parse_tei(body, 9)
        case "ollama":
            return parse_ollama(body, 9).request
        case _:
            return parse_embeddings(body).request


def rerank(**fields: object):
    return parse_rerank({"query": "q", "documents": ["a"], **fields}, 9, RerankDefaults())


def cut_of(request) -> tuple[bool | None, int | None, bool]:
    return request.truncate, request.max_tokens, request.cut_start


WORDS = [(True, "end"), (False, "none"), *((spelled, CUT_WORDS[word]) for word in CUT_WORDS
         for spelled in (word, word.upper(), word.title()))]  # fmt: skip


@pytest.mark.parametrize("route", [*ROUTES, "rerank"])
@pytest.mark.parametrize("name", [name for name, role in CUTTING.items() if role == "whether"])
def test_every_word_for_cutting_means_the_same_everywhere(route, name):
    for word, meaning in WORDS:
        request = rerank(**{name: word}).request if route == "rerank" else parse(route, **{name: word})
        assert cut_of(request) == (meaning != "none", None, meaning == "start"), word


@pytest.mark.parametrize("route", [*ROUTES, "rerank"])
@pytest.mark.parametrize(
    ("fields", "cut"),
    [
        ({"truncate_prompt_tokens": 3}, (True, 3, False)),
        ({"truncate_prompt_tokens": -1}, (True, None, False)),
        ({"truncate_input_tokens": 3, "truncation_side": "left"}, (True, 3, True)),
        ({"truncate_prompt_tokens": 3, "truncate": "START"}, (True, 3, True)),
        ({"truncate": True, "truncation_direction": "LEFT"}, (True, None, True)),
        ({"truncate": "NONE", "max_tokens": 7}, (False, 7, False)),
        ({"truncate": "end", "max_length": 7, "max_tokens": 7}, (True, 7, False)),
        ({"truncate": None, "truncation": True, "truncate_prompt_tokens": None}, (True, None, False)),
    ],
)
def test_fields_of_several_apis_add_up(route, fields, cut):
    assert cut_of(rerank(**fields).request if route == "rerank" else parse(route, **fields)) == cut


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"truncate": False, "truncate_prompt_tokens": 8}, '"truncate" and "truncate_prompt_tokens"'),
        ({"truncate": "START", "truncation_direction": "Right"}, '"truncate" and "truncation_direction"'),
        ({"truncate": "END", "truncation_side": "left"}, '"truncate" and "truncation_side"'),
        ({"truncate": True, "truncation": "none"}, '"truncate" and "truncation"'),
        ({"truncate_prompt_tokens": 8, "max_length": 9}, '"truncate_prompt_tokens" and "max_length"'),
    ],
)
@pytest.mark.parametrize("route", [*ROUTES, "rerank"])
def test_two_that_contradict_each_other_are_refused_by_name(route, fields, names):
    with pytest.raises(InvalidRequest, match=f"^{names} contradict each other"):
        rerank(**fields) if route == "rerank" else parse(route, **fields)


def test_similarity_has_the_same_words_in_its_parameters():
    inputs = {"source_sentence": "a", "sentences": ["b"]}
    parsed = parse_similarity({"inputs": inputs, "parameters": {"truncation": "START"}}, 9)
    assert cut_of(parsed) == (True, None, True)
    assert cut_of(parse_similarity({"inputs": inputs}, 9)) == (True, None, False)


@pytest.mark.parametrize("route", [route for route in ROUTES if route != "older"])
@pytest.mark.parametrize("name", DIMENSIONS)
def test_every_word_for_dimensions_is_known(route, name):
    assert parse(route, **{name: 7}).dimensions == 7
    assert parse(route, **{name: 7, "dimensions": 7}).dimensions == 7
    if name != "dimensions":
        with pytest.raises(InvalidRequest, match=f'"dimensions" is 8 and "{name}" is 7: send only one'):
            parse(route, **{name: 7, "dimensions": 8})


@pytest.mark.parametrize("name", DIMENSIONS)
def test_the_older_ollama_route_does_not_ignore_dimensions(name):
    with pytest.raises(InvalidRequest, match="POST /api/embed"):
        parse("older", **{name: 7})


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("name", INPUTS)
def test_every_word_for_the_texts_is_known(route, name):
    if (route, name) == ("openai", "content"):
        return  # llama.cpp's shape answers, see test_embeddings_http
    texts = ["some words"] if route == "older" else ["some words", "others"]
    assert parse(route, **{name: texts}).inputs == tuple(texts)
    if route != "cohere" or name not in ("texts", "inputs"):  # Cohere's own fields are arrays
        assert parse(route, **{name: "some words"}).inputs == ("some words",)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("name", INPUTS)
def test_other_texts_under_another_name_are_refused(route, name):
    own = OWN[route]
    if name == own or (route in ("openai", "llama") and {name, own} == {"input", "content"}):
        return  # llama-server's rule: input takes precedence over content
    if route == "openai" and name == "content":
        return
    given = ["a"] if route == "cohere" else "a"
    if (route, name) != ("cohere", "inputs"):  # both its own
        assert parse(route, **{own: given, name: given}).inputs == ("a",)
    assert parse(route, **{own: given, name: ""}).inputs == ("a",)
    with pytest.raises(InvalidRequest, match=f'"{own}" and "{name}" mean the same here'):
        parse(route, **{own: given, name: ["b"]})


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("name", [*UNSUPPORTED, *UNSUPPORTED_IF_FALSE])
def test_what_cannot_be_honored_is_refused_by_name(route, name):
    value = name in UNSUPPORTED
    if (route, name) == ("cohere", "images"):
        return  # a 501 there, see test_cohere
    if route in ("openai", "llama") and name in head_outputs.NAMES:
        return  # honored there
    with pytest.raises(InvalidRequest, match=f'"{name}" ') as caught:
        parse(route, **{name: value})
    assert caught.value.param == name
    assert parse(route, **{name: None}) == parse(route, **{name: not value}) == parse(route)


@pytest.mark.parametrize("name", NORMALIZE)
def test_every_word_for_normalizing_is_known(name):
    for route in ("openai", "cohere", "ollama", "older"):
        with pytest.raises(InvalidRequest, match='"normalize" '):
            parse(route, **{name: False})
        assert parse(route, **{name: True}) == parse(route)
    assert [parse("llama", **{name: flag}).embd_normalize for flag in (False, True)] == [-1, 2]
    assert [parse("tei", **{name: flag}).embd_normalize for flag in (False, True)] == [-1, 2]
    with pytest.raises(InvalidRequest, match='"embd_normalize" and "normalize" contradict'):
        parse("llama", embd_normalize=0, **{name: True})


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_word_for_documents_is_known(name):
    parsed = parse_rerank({"query": "q", name: ["x", {"text": "y"}]}, 9, RerankDefaults())
    assert parsed.request.documents == ("x", "y")
    assert parsed.is_tei == (name == "texts")


@pytest.mark.parametrize("name", [name for name in DOCUMENTS if name != "documents"])
def test_a_flag_with_the_name_of_the_documents_is_none_of_them(name):
    assert rerank(**{name: True}) == rerank()
    with pytest.raises(InvalidRequest, match=f'"documents" and "{name}" mean the same here'):
        rerank(**{name: ["b"]})


@pytest.mark.parametrize("name", TOP_N)
def test_zero_and_minus_one_are_all_results(name):
    assert [rerank(**{name: n}).top_n for n in (0, -1, 1, 6, None)] == [None, None, 1, 6, None]


@pytest.mark.parametrize("name", RETURN_DOCUMENTS)
def test_every_word_for_returned_documents_is_known(name):
    assert [rerank(**{name: flag}).return_documents for flag in (True, False, None)] == [True, False, False]


@pytest.mark.parametrize(("name", "means_raw"), RAW_SCORES.items())
def test_every_word_for_the_scale_is_known(name, means_raw):
    assert [rerank(**{name: flag}).request.raw_scores for flag in (True, False)] == [means_raw, not means_raw]


def test_nvidias_query_is_an_object():
    assert rerank(query={"text": "q"}) == rerank()
    assert rerank(query={"text": "q"}).request == replace(rerank().request, query="q")
