"""What is written about a tokenizer: its kind, its special tokens, and which of them surround a text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import pytest

from gguf_embed.convert.fast_tokenizer import FastTokenizer
from gguf_embed.convert.source import ModelSourceDirectory
from gguf_embed.convert.special_tokens import SpecialTokensTemplate, read_special_tokens
from gguf_embed.convert.spm_bpe import has_all_splits, rank_tokens, stand_together
from gguf_embed.convert.tokenizer import VocabularyPlan, read_tokenizer
from gguf_embed.convert.vocabulary import VocabularyEntry, build_table
from gguf_embed.gguf_file.header import read_header
from tests.convert.bert_directory import random_weights, write_bert_directory
from tests.convert.tokenizers.references import n_vocab_of, read_plan, reference_tokenizers
from tests.gguf_models import CLS, SEP, TINY_VOCABULARY

KEYS = {
    "model": "tokenizer.ggml.model",
    "pre": "tokenizer.ggml.pre",
    "bos": "tokenizer.ggml.bos_token_id",
    "eos": "tokenizer.ggml.eos_token_id",
    "sep": "tokenizer.ggml.seperator_token_id",
    "add_bos": "tokenizer.ggml.add_bos_token",
    "add_eos": "tokenizer.ggml.add_eos_token",
    "add_sep": "tokenizer.ggml.add_sep_token",
}


def written(plan: VocabularyPlan, path: Path) -> dict[str, Any]:
    writer = gguf.GGUFWriter(path, "qwen3")
    plan.write(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return dict(read_header(path).metadata)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("roberta", ("gpt2", "roberta-bpe", "<s>", "</s>", "</s>", True, True, True)),
        ("modernbert", ("gpt2", "gpt-2", "[CLS]", "[SEP]", "[SEP]", True, True, False)),
        ("qwen3_embedding", ("gpt2", "qwen2", None, "<|endoftext|>", "<|endoftext|>", False, True, False)),
        ("qwen35", ("gpt2", "qwen35", None, "<|endoftext|>", None, False, False, False)),
        ("llama3", ("gpt2", "llama-bpe", "<|begin_of_text|>", "<|end_of_text|>", None, True, False, False)),
        ("starcoder", ("gpt2", "starcoder", None, "<|endoftext|>", None, False, False, False)),
        ("xlm_roberta", ("t5", "default", "<s>", "</s>", "</s>", True, True, True)),
        ("gemma", ("llama", "default", "<bos>", "<eos>", "<bos>", True, True, True)),
        ("gemma_trained", ("gemma4", None, "<bos>", "<eos>", "<bos>", True, True, True)),
    ],
)
def test_kind_and_special_tokens(tmp_path, name, expected):
    metadata = written(read_plan(tmp_path, reference_tokenizers()[name]), tmp_path / "v.gguf")
    fast = reference_tokenizers()[name]["tokenizer.json"]
    texts = {token["id"]: token["content"] for token in fast["added_tokens"]}
    found = {short: metadata.get(key) for short, key in KEYS.items()}
    found |= {role: texts.get(found[role]) for role in ("bos", "eos", "sep")}
    if name == "llama3":  # its pair has a token before the second text, which llama.cpp counts as a separator
        expected = (*expected[:4], "<|begin_of_text|>", *expected[5:7], True)
    assert tuple(found.values()) == expected


def test_a_role_that_only_config_json_declares_is_read_from_there(tmp_path):
    tokenizer = reference_tokenizers()["qwen35"]
    metadata = written(read_plan(tmp_path, tokenizer, bos_token_id=0, pad_token_id=0), tmp_path / "v.gguf")
    assert metadata["tokenizer.ggml.bos_token_id"] == 0
    assert metadata["tokenizer.ggml.padding_token_id"] == 0
    assert metadata["tokenizer.ggml.add_bos_token"] is False


def test_unigram_keeps_scores_rules_and_the_unknown_token(tmp_path):
    plan = read_plan(tmp_path, reference_tokenizers()["xlm_roberta"])
    written(plan, tmp_path / "v.gguf")
    fields = gguf.GGUFReader(tmp_path / "v.gguf").fields
    tokens, types = (fields[f"tokenizer.ggml.{key}"].contents() for key in ("tokens", "token_type"))
    assert tokens[:4] == ["<s>", "<pad>", "</s>", "<unk>"]
    assert types[:4] == [3, 3, 3, 2]
    assert types[-3:] == [5, 5, 5]
    assert fields["tokenizer.ggml.scores"].contents()[4] < 0
    assert len(fields["tokenizer.ggml.precompiled_charsmap"].data) > 100_000
    assert fields["tokenizer.ggml.remove_extra_whitespaces"].contents() is True
    assert fields["tokenizer.ggml.add_space_prefix"].contents() is True


@pytest.mark.parametrize("merges", [["a b", "ab c"], [["a", "b"], ["ab", "c"]]])
def test_merges_of_either_spelling_are_written_alike(tmp_path, merges):
    tokenizer = changed("qwen35", ("model", "merges"), merges)
    written(read_plan(tmp_path, tokenizer), tmp_path / "v.gguf")
    assert gguf.GGUFReader(tmp_path / "v.gguf").fields["tokenizer.ggml.merges"].contents() == ["a b", "ab c"]


def test_wordpiece_is_read_through_the_same_door(tmp_path):
    source = write_bert_directory(tmp_path, random_weights())
    n_vocab = len(TINY_VOCABULARY) + 2
    plan = read_tokenizer(ModelSourceDirectory(source, {"vocab_size": n_vocab}), n_vocab)
    assert plan.n_tokens == n_vocab
    metadata = written(plan, tmp_path / "v.gguf")
    assert metadata["tokenizer.ggml.model"] == "bert"
    assert (metadata[KEYS["add_bos"]], metadata[KEYS["add_eos"]], metadata[KEYS["add_sep"]]) == (True, True, False)


def test_a_wordpiece_pair_may_have_two_tokens_between(tmp_path):
    """MPNet's: `<s> A </s> </s> B </s>`."""
    source = write_bert_directory(tmp_path, random_weights())
    fast = json.loads((source / "tokenizer.json").read_text("utf-8"))
    fast["post_processor"] = {"type": "RobertaProcessing", "cls": ["[CLS]", CLS], "sep": ["[SEP]", SEP]}
    (source / "tokenizer.json").write_text(json.dumps(fast), encoding="utf-8")
    plan = read_tokenizer(ModelSourceDirectory(source, {}), len(TINY_VOCABULARY) + 2)
    metadata = written(plan, tmp_path / "v.gguf")
    assert metadata[KEYS["add_sep"]] is True
    assert (metadata[KEYS["bos"]], metadata[KEYS["eos"]], metadata[KEYS["sep"]]) == (CLS, SEP, SEP)


METASPACE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}


@pytest.mark.parametrize(
    ("name", "path", "value", "note"),
    [
        ("qwen3_embedding", ("pre_tokenizer",), None, "compose"),
        ("roberta", ("pre_tokenizer",), None, ""),
        ("xlm_roberta", ("pre_tokenizer",), METASPACE, "space at the beginning"),
        ("xlm_roberta_replace", ("pre_tokenizer",), METASPACE, ""),
    ],
)
def test_what_llama_cpp_does_otherwise_is_noted(tmp_path, name, path, value, note):
    tokenizer = reference_tokenizers()[name] if value is None else changed(name, path, value)
    notes = read_plan(tmp_path, tokenizer).notes
    assert [note in line for line in notes] == ([True] if note else [])


BOS, EOS = {"SpecialToken": {"id": "<s>"}}, {"SpecialToken": {"id": "</s>"}}
A, B = {"Sequence": {"id": "A"}}, {"Sequence": {"id": "B"}}
IDS = {"<s>": {"ids": [0]}, "</s>": {"ids": [2]}}


def template(single: list[object], pair: list[object]) -> dict[str, object]:
    return {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": IDS}


def tokenizer_with(post_processor: object) -> FastTokenizer:
    return FastTokenizer(Path("tokenizer.json"), {}, None, None, post_processor, (), {})


@pytest.mark.parametrize(
    ("post_processor", "template", "separators"),
    [
        (None, SpecialTokensTemplate(None, None, ()), ()),
        ({"type": "ByteLevel"}, SpecialTokensTemplate(None, None, ()), ()),
        ({"type": "BertProcessing", "cls": ["<s>", 0], "sep": ["</s>", 2]}, SpecialTokensTemplate(0, 2, (2,)), ()),
        (
            {"type": "RobertaProcessing", "cls": ["<s>", 0], "sep": ["</s>", 2]},
            SpecialTokensTemplate(0, 2, (2, 2)),
            (2,),
        ),
        (template([A, EOS], [A, EOS, B, EOS]), SpecialTokensTemplate(None, 2, (2,)), ()),
        (template([BOS, A], [BOS, A, B]), SpecialTokensTemplate(0, None, ()), ()),
        (template([A], [A, EOS, B]), SpecialTokensTemplate(None, None, (2,)), (2,)),
        (template([BOS, A, EOS], [BOS, A, EOS, EOS, B, EOS]), SpecialTokensTemplate(0, 2, (2, 2)), (2,)),
        (template([BOS, A, EOS], []), SpecialTokensTemplate(0, 2, ()), ()),
        (
            {"type": "Sequence", "processors": [{"type": "ByteLevel"}, template([A, EOS], [])]},
            SpecialTokensTemplate(None, 2, ()),
            (),
        ),
    ],
)
def test_the_template_is_what_the_post_processor_adds(post_processor, template, separators):
    found = read_special_tokens(tokenizer_with(post_processor))
    assert found == template
    assert found.separators == separators


@pytest.mark.parametrize(
    ("merges", "tokens", "together", "complete"),
    [
        ("a b,ab c,a bc", "a b c ab abc", True, True),  # "bc" is no token, so "a bc" need not count
        ("a b,ab c", "a b c ab abc bc", True, False),
        ("b c,a b,a bc,ab c", "a b c ab bc abc", True, True),
        ("a b,a bc,b c,ab c", "a b c ab bc abc", False, True),  # the merges of "abc" are apart
        ("a b,a bc,b c,ab c", "a b c ab bc", True, True),  # nobody asked about "abc"
    ],
)
def test_scores_replace_merges_only_if_every_split_is_a_merge(merges, tokens, together, complete):
    pairs = [tuple(merge.split()) for merge in merges.split(",")]
    assert stand_together(pairs, set(tokens.split())) is together
    assert has_all_splits(pairs, set(tokens.split())) is complete


def test_tokens_rank_by_their_first_merge():
    assert rank_tokens([("a", "b"), ("a", "bc"), ("b", "c"), ("ab", "c")]) == {"ab": 0, "abc": 1, "bc": 2}


def test_a_filler_never_takes_the_text_of_a_token(tmp_path):
    table = build_table(tmp_path, {0: VocabularyEntry("[PAD1]", gguf.TokenType.NORMAL)}, 3)
    assert [entry.text for entry in table.entries] == ["[PAD1]", "[[PAD1]]", "[PAD2]"]


def changed(name: str, path: tuple[str, ...], value: object) -> dict[str, Any]:
    """A reference tokenizer with one entry of its tokenizer.json replaced; the original stays as it is."""
    tokenizer = reference_tokenizers()[name]
    fast = dict(tokenizer["tokenizer.json"])
    target = fast
    for key in path[:-1]:
        target[key] = dict(target[key])
        target = target[key]
    target[path[-1]] = value
    return tokenizer | {"tokenizer.json": fast}


def test_a_token_outside_the_vocabulary_is_refused(tmp_path):
    tokenizer = reference_tokenizers()["roberta"]
    read_plan(tmp_path, tokenizer)
    with pytest.raises(Exception, match="outside the config's vocab_size 10"):
        read_tokenizer(ModelSourceDirectory(tmp_path, {}), 10)
    assert n_vocab_of(tokenizer) > 10
