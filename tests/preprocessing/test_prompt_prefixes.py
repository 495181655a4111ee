"""prompts.py: where a model's prefixes come from, what the dialects' words mean, and how a prefix joins a text."""

from __future__ import annotations

from pathlib import Path

import gguf
import pytest

from gguf_embed.errors import ConfigError, InvalidRequest, WayOut
from gguf_embed.gguf_file.header import read_header
from gguf_embed.preprocessing.prompt_prefixes import (
    SAME_MEANING,
    apply,
    choose,
    names_tried,
    parse_flag,
    profile,
    prompts_of_header,
    same_meaning,
)
from gguf_embed.tokenization.wordpiece import ExactWordPiece
from gguf_embed.types import AppliedPrompt, PromptChoice, Vocabulary

API = (Path(__file__).parents[2] / "docs" / "api.md").read_text("utf-8")

# The names are the models' own (their config_sentence_transformers.json or card), the texts are short here.
NOMIC = {"search_query": "q: ", "search_document": "d: ", "classification": "c: ", "clustering": "k: "}
NOMIC_V2 = {"query": "q: ", "passage": "d: ", "Classification": "c: ", "STS": "s: "}
JINA_V3 = {"retrieval.query": "q: ", "retrieval.passage": "d: ", "separation": "k: ", "text-matching": "s: "}
GEMMA = {"query": "q: ", "document": "d: ", "Retrieval-query": "rq: ", "BitextMining": "b: ", "STS": "s: "}
BGE = {"query": "q: "}
MINILM = {"query": "", "document": ""}
UNKNOWN: dict[str, str] = {}


@pytest.mark.parametrize(
    ("prompts", "word", "name"),
    [
        (NOMIC, "search_query", "search_query"),
        (NOMIC, "query", "search_query"),
        (NOMIC, "passage", "search_document"),
        (NOMIC, "retrieval.passage", "search_document"),
        (NOMIC, "RETRIEVAL_DOCUMENT", "search_document"),
        (NOMIC, "CLUSTERING", "clustering"),
        (NOMIC, "separation", "clustering"),
        (NOMIC_V2, "search_document", "passage"),
        (NOMIC_V2, "classification", "Classification"),
        (NOMIC_V2, "text-matching", "STS"),
        (JINA_V3, "query", "retrieval.query"),
        (JINA_V3, "document", "retrieval.passage"),
        (JINA_V3, "clustering", "separation"),
        (JINA_V3, "SEMANTIC_SIMILARITY", "text-matching"),
        (GEMMA, "query", "query"),
        (GEMMA, "search_query", "query"),
        (GEMMA, "retrieval.query", "Retrieval-query"),
        (GEMMA, "bitext_mining", "BitextMining"),
        (GEMMA, " Query ", "query"),
        (BGE, "RETRIEVAL_QUERY", "query"),
        ({"web_search_query": "q: "}, "query", "web_search_query"),
        ({"corpus": "d: "}, "document", "corpus"),
        ({"Document": "D: ", "document": "d: "}, "document", "document"),
        ({"検索": "j: "}, "検索", "検索"),
    ],
)
def test_a_word_of_any_dialect_finds_the_models_own_prefix(prompts, word, name):
    assert choose(PromptChoice(name=word), prompts) == AppliedPrompt(name, prompts[name])


@pytest.mark.parametrize(
    ("prompts", "word", "applied"),
    [
        (MINILM, "query", AppliedPrompt("query", "")),
        (MINILM, "search_document", AppliedPrompt("document", "")),
        (MINILM, "clustering", AppliedPrompt(None, "")),
        (BGE, "document", AppliedPrompt(None, "")),
        (UNKNOWN, "query", AppliedPrompt(None, "")),
        (UNKNOWN, "passage", AppliedPrompt(None, "")),
        (UNKNOWN, "text-matching", AppliedPrompt(None, "")),
    ],
)
def test_a_known_word_without_a_prefix_adds_nothing_and_is_in_the_result(prompts, word, applied):
    assert choose(PromptChoice(name=word), prompts) == applied


@pytest.mark.parametrize(
    ("prompts", "choice", "shown"),
    [
        (BGE, PromptChoice("clustering"), "clustering"),
        (GEMMA, PromptChoice("nonsense", param="task"), "nonsense"),
        (UNKNOWN, PromptChoice("nonsense"), "nonsense"),
        (MINILM, PromptChoice("image"), "image"),
        (MINILM, PromptChoice("x" * 100), "x" * 60 + "…"),
        (NOMIC, PromptChoice("query", param="prompt_name"), "query"),
        (UNKNOWN, PromptChoice("query", param="prompt_name"), "query"),
    ],
)
def test_an_unknown_word_is_refused_with_the_names_that_the_model_has(prompts, choice, shown):
    with pytest.raises(InvalidRequest) as caught:
        choose(choice, prompts)
    for name in (shown, *prompts):
        assert f'"{name}"' in caught.value.message
    assert caught.value.param == choice.param
    assert WayOut.PROMPT_YOURSELF in caught.value.ways_out
    assert (WayOut.NAME_PROMPT in caught.value.ways_out) is (prompts is UNKNOWN)


@pytest.mark.parametrize(
    ("choice", "applied"),
    [
        (None, None),
        (PromptChoice(text="", param="prompt"), None),
        (PromptChoice(text="mine: ", param="prompt"), AppliedPrompt(None, "mine: ")),
        (PromptChoice(name="retrieval_QUERY", param="prompt_name"), AppliedPrompt("Retrieval-query", "rq: ")),
    ],
)
def test_a_request_may_ask_for_no_prompt_its_own_text_or_an_exact_name(choice, applied):
    assert choose(choice, GEMMA) == applied


def test_names_are_tried_from_the_word_itself_through_its_synonyms():
    assert names_tried("retrieval.query") == (
        "retrieval.query",
        "query",
        "search_query",
        "web_search_query",
        "s2p_query",
    )
    assert names_tried("BitextMining") == ("BitextMining",)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("query", "search_query", True),
        ("retrieval.query", "RETRIEVAL_QUERY", True),
        ("BitextMining", "bitext_mining", True),
        ("query", "document", False),
        ("nonsense", "rubbish", False),
        ("query", "code.query", False),
    ],
)
def test_same_meaning(one, other, same):
    assert same_meaning(one, other) is same_meaning(other, one) is same


def test_no_word_has_two_meanings():
    words = [name.replace("_", "") for names in SAME_MEANING for name in names]
    assert len(words) == len(set(words))


@pytest.mark.parametrize(
    ("prompt", "inputs", "prefixed"),
    [
        (AppliedPrompt("query", "q: "), ("one", "", "two"), ("q: one", "q: ", "q: two")),
        (AppliedPrompt("query", "q: "), (("a", 5, "b"),), (("q: a", 5, "b"),)),
        (AppliedPrompt("query", ""), ("one", (7, 8)), ("one", (7, 8))),
        (None, ("one", (7, 8)), ("one", (7, 8))),
    ],
)
def test_a_prefix_is_joined_to_the_text_that_comes_first(prompt, inputs, prefixed):
    assert apply(prompt, inputs) == prefixed


@pytest.mark.parametrize("ids_first", [(7, 8), (7, "text"), ()])
def test_a_prefix_cannot_be_put_before_token_ids(ids_first):
    with pytest.raises(InvalidRequest, match=r"^input 1 begins with a token id"):
        apply(AppliedPrompt("query", "q: "), ("a text", ids_first))


def test_a_prefixed_text_gets_its_special_tokens_once():
    words = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "query", ":", "sky")
    entries = tuple(word if word.startswith("[") else "▁" + word for word in words)
    ids = {"bos_id": 2, "eos_id": None, "sep_id": 3, "unk_id": 1, "pad_id": 0, "mask_id": None}
    tokenizer = ExactWordPiece(Vocabulary("wpm", entries, **ids, adds_bos=True, adds_eos=False, adds_sep=True))
    (text,) = apply(AppliedPrompt("query", "query: "), ("sky",))
    assert tokenizer.encode_batch([str(text)]) == [[2, 4, 5, 6, 3]]


def test_flags_beat_the_file_which_beats_the_catalog_name_by_name():
    catalog = {"query": "catalog q", "Document": "catalog d", "STS": "catalog s"}
    file = {"query": "file q", "document": "file d"}
    assert profile({"QUERY": ""}, file, catalog) == {"QUERY": "", "document": "file d", "STS": "catalog s"}
    assert profile({}, {}, {}) == {}


def test_a_files_own_prompts_are_read_from_its_header(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "bert")
    writer.add_string("gguf-embed.prompt.query", "query: ")
    writer.add_string("gguf-embed.prompt.Retrieval-document", "title: none | text: ")
    writer.add_uint32("gguf-embed.prompt.number", 3)
    writer.add_string("gguf-embed.prompt.", "no name")
    writer.add_string("gguf-embed.prompt_default", "query")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = prompts_of_header(read_header(tmp_path / "m.gguf"))
    assert found == {"query": "query: ", "Retrieval-document": "title: none | text: "}


@pytest.mark.parametrize(
    ("flag", "name", "prefix"),
    [
        ("query=search_query: ", "query", "search_query: "),
        ("query=a=b", "query", "a=b"),
        ("query=", "query", ""),
        (" query =Instruct: find\nQuery:", "query", "Instruct: find\nQuery:"),
    ],
)
def test_the_flag_is_read_to_the_letter(flag, name, prefix):
    assert parse_flag(flag) == (name, prefix)


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("query", "write NAME=TEXT"),
        ("=text", "write NAME=TEXT"),
        (" - =text", "write NAME=TEXT"),
        ("query=Query: {text}", "leave {text} out"),
        ("query={}", "leave {} out"),
        ("query=\udcff", "is not valid UTF-8"),
    ],
)
def test_a_bad_flag_is_refused_with_the_way_out(flag, message):
    with pytest.raises(ConfigError) as caught:
        parse_flag(flag)
    assert message in caught.value.message
    assert "\n" not in caught.value.message


def test_the_documents_list_every_word_with_what_it_means():
    section = API.partition("\n## Prompts\n")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| `")]
    listed = [tuple(word.strip(" `") for word in row.split("|")[1].split(",")) for row in rows]
    start = listed.index(SAME_MEANING[0])
    assert listed[start : start + len(SAME_MEANING)] == list(SAME_MEANING)
