"""Tokenizers that llama.cpp does not compute are refused by name, damaged files as damaged."""

from __future__ import annotations

import json

import pytest

from gguf_embed.convert.source import ModelSourceDirectory
from gguf_embed.convert.tokenizer import read_tokenizer
from gguf_embed.errors import ModelFileError
from tests.convert.bert_directory import random_weights, write_bert_directory
from tests.convert.tokenizers.decoder_directory import write_tokenizer
from tests.convert.tokenizers.references import read_plan
from tests.convert.tokenizers.test_written_tokenizers import BOS, EOS, A, B, changed, template
from tests.gguf_models import TINY_VOCABULARY

SPLIT = {"type": "Split", "pattern": {"Regex": "x+"}, "behavior": "Isolated", "invert": False}
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}


@pytest.mark.parametrize(
    ("name", "path", "value", "message"),
    [
        ("qwen35", ("model", "type"), "WordLevel", "'WordLevel' cannot be converted"),
        ("qwen35", ("pre_tokenizer",), {"type": "Whitespace"}, "'BPE' cannot be converted"),
        ("qwen35", ("pre_tokenizer",), BYTES, "splitting by no rule cannot be converted .only the rules of gpt-2"),
        (
            "qwen35",
            ("pre_tokenizer",),
            {"type": "Sequence", "pretokenizers": [SPLIT, BYTES]},
            "splitting by 'x.' cannot be converted",
        ),
        ("qwen35", ("model", "ignore_merges"), True, "ignore_merges cannot be converted"),
        ("qwen35", ("model", "dropout"), 0.1, "dropout 0.1"),
        ("qwen35", ("normalizer",), {"type": "Lowercase"}, "normalizer Lowercase before byte-level BPE"),
        ("roberta", ("pre_tokenizer", "add_prefix_space"), True, "ByteLevel with add_prefix_space"),
        ("roberta", ("pre_tokenizer",), SPLIT | {"behavior": "Removed"}, "'BPE' cannot be converted"),
        ("roberta", ("post_processor",), {"type": "Odd"}, "post-processor 'Odd'"),
        ("roberta", ("post_processor",), template([BOS, BOS, A, EOS], []), "2 tokens before and 1 after"),
        (
            "roberta",
            ("post_processor",),
            {"type": "Sequence", "processors": [template([BOS, A], []), template([A, EOS], [A, B])]},
            "several templates",
        ),
        ("xlm_roberta", ("normalizer",), {"type": "NFKC"}, "normalizer 'NFKC' before Unigram"),
        ("xlm_roberta_replace", ("normalizer",), {"type": "Strip"}, "Strip without merging spaces"),
        ("xlm_roberta", ("pre_tokenizer",), {"type": "Whitespace"}, "'Whitespace' before Unigram"),
        ("xlm_roberta", ("pre_tokenizer",), {"type": "WhitespaceSplit"}, "without a Metaspace"),
        ("xlm_roberta", ("model", "byte_fallback"), True, "with byte_fallback"),
        ("gemma", ("model", "byte_fallback"), False, "a token for every byte"),
        ("gemma", ("pre_tokenizer",), {"type": "Whitespace"}, "'Whitespace' after spaces became"),
        ("gemma", ("normalizer",), None, "'BPE' cannot be converted"),
        ("gemma_trained", ("post_processor",), None, "without a token before each text"),
    ],
)
def test_what_llama_cpp_does_not_compute_is_refused_by_name(tmp_path, name, path, value, message):
    with pytest.raises(ModelFileError, match=message):
        read_plan(tmp_path, changed(name, path, value))


@pytest.mark.parametrize(
    ("name", "path", "value"),
    [
        ("qwen35", ("model",), []),
        ("qwen35", ("model", "vocab"), None),
        ("qwen35", ("model", "merges"), [["a"]]),
        ("qwen35", ("added_tokens",), [{"id": "x"}]),
        ("qwen35", ("pre_tokenizer",), {}),
        ("xlm_roberta", ("model", "vocab"), [["a"]]),
        ("xlm_roberta", ("model", "unk_id"), 10**6),
        ("xlm_roberta", ("normalizer",), {"type": "Precompiled", "precompiled_charsmap": "a"}),
        ("roberta", ("post_processor",), {"type": "TemplateProcessing"}),
    ],
)
def test_a_damaged_tokenizer_is_named(tmp_path, name, path, value):
    write_tokenizer(tmp_path, changed(name, path, value))
    with pytest.raises(ModelFileError, match=r"tokenizer\.json is malformed"):
        read_tokenizer(ModelSourceDirectory(tmp_path, {}), 10_000)


def test_two_tokens_of_one_text_are_refused(tmp_path):
    """llama.cpp would end the process."""
    added = [{"id": 5000, "content": "a", "special": False}, {"id": 5001, "content": "a", "special": False}]
    with pytest.raises(ModelFileError, match="are both 'a'"):
        read_plan(tmp_path, changed("qwen35", ("added_tokens",), added))


def test_a_directory_without_a_tokenizer_is_refused_with_the_way_out(tmp_path):
    with pytest.raises(ModelFileError, match=r"neither tokenizer.json nor vocab.txt.*save_pretrained"):
        read_tokenizer(ModelSourceDirectory(tmp_path, {}), 10)


@pytest.mark.parametrize(
    ("vocabulary", "message"),
    [
        (["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "##▁a"], "two tokens of its vocabulary become '▁a'"),
        (["[PAD]", "[UNK]", "[CLS]", "a"], r"its vocabulary has no \[SEP\]"),
    ],
)
def test_a_wordpiece_vocabulary_that_llama_cpp_cannot_hold_is_refused(tmp_path, vocabulary, message):
    (tmp_path / "vocab.txt").write_text("\n".join(vocabulary), encoding="utf-8")
    with pytest.raises(ModelFileError, match=message):
        read_tokenizer(ModelSourceDirectory(tmp_path, {}), len(vocabulary))


def test_wordpiece_with_other_tokens_around_a_text_is_refused(tmp_path):
    """llama.cpp's WordPiece always adds the cls and the sep token."""
    source = write_bert_directory(tmp_path, random_weights())
    fast = json.loads((source / "tokenizer.json").read_text("utf-8"))
    (source / "tokenizer.json").write_text(json.dumps(fast | {"post_processor": {"type": "ByteLevel"}}))
    with pytest.raises(ModelFileError, match="puts other tokens around a text"):
        read_tokenizer(ModelSourceDirectory(source, {}), len(TINY_VOCABULARY) + 2)
