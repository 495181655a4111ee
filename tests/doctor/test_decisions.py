"""The doctor's pure functions: what is known about a model, which special tokens are used, how --set is parsed."""

from __future__ import annotations

import mmap
from pathlib import Path

import llama_cpp
import pytest

from gguf_embed.doctor.effective_special_tokens import effective_special_tokens
from gguf_embed.doctor.findings import Value, ValueType, shown, some
from gguf_embed.doctor.known import expected_of, plain_name
from gguf_embed.doctor.llama_facts import ARCHITECTURES, EMBEDDING_ARCHITECTURES, PRE_TOKENIZERS
from gguf_embed.doctor.settings import parse_setting
from gguf_embed.errors import ConfigError
from gguf_embed.gguf_file.layout import MetadataEntry
from gguf_embed.model_store.catalog import load_catalog
from gguf_embed.types import Pooling

G = "tokenizer.ggml."


@pytest.mark.parametrize(
    ("name", "pooling", "certain"),
    [
        ("Qwen3 Embedding 0.6B", Pooling.LAST, True),
        ("Qwen3-Embedding-8B-Q4_K_M", Pooling.LAST, True),
        ("Qwen3-Reranker-4B", Pooling.RANK, True),
        ("bge-small-en-v1.5-q8_0", Pooling.CLS, True),
        ("bge-base-zh-v1.5", Pooling.CLS, True),
        ("BAAI/bge-m3", Pooling.CLS, True),
        ("nomic-embed-text-v1.5.f16", Pooling.MEAN, True),
        ("nomic-embed-text-v2-moe", Pooling.MEAN, True),
        ("multilingual-e5-large-instruct", Pooling.MEAN, True),
        ("snowflake-arctic-embed-l-v2.0", Pooling.CLS, True),
        ("embeddinggemma-300M-qat-Q4_0", Pooling.MEAN, True),
        ("bge-base-en-v1.5-finetuned-on-mails", Pooling.CLS, False),
        ("bge-multilingual-gemma2", None, False),
        ("e5-mistral-7b-instruct", None, False),
        ("Llama 3.2 1B", None, False),
        ("cambridge-m3", None, False),
    ],
)
def test_families_are_known_by_name(name, pooling, certain):
    found = expected_of([("general.name", name)], "bert", None)
    assert (found.pooling, found.pooling is not None and found.certain) == (pooling, certain)


@pytest.mark.parametrize(
    ("name", "reranker", "embedding"),
    [("jina-reranker-v2", True, False), ("ms-marco-MiniLM-L-6-v2", True, False), ("my embedder", False, True),
     ("Qwen2.5 7B Instruct", False, False)],
)  # fmt: skip
def test_a_name_says_what_a_model_is_for(name, reranker, embedding):
    found = expected_of([("general.name", name)], "bert", None)
    assert found.reranker is reranker
    assert reranker or found.embedding is embedding


def test_the_catalog_counts_more_than_a_name_and_a_fine_tuned_name_has_no_row():
    catalog = load_catalog()
    row = catalog.find("all-MiniLM-L6-v2")
    assert row is not None
    found = expected_of([("general.name", "bge-m3")], "bert", row)
    assert (found.pooling, found.certain, found.context, found.dimensions) == (Pooling.MEAN, True, 512, 384)


def test_families_and_the_catalog_do_not_contradict_each_other():
    in_catalog, expected = {}, {}
    for row in load_catalog().rows:
        for name in row.names:
            found = expected_of([("general.name", name)], row.architecture, None)
            if row.pooling is not None and found.pooling is not None and found.certain:
                in_catalog[name], expected[name] = row.pooling, found.pooling
    assert len(in_catalog) >= 50
    assert expected == in_catalog


def test_an_architecture_made_for_one_model_tells_its_pooling():
    assert expected_of([("general.name", "model")], "gemma-embedding", None).pooling is Pooling.MEAN


@pytest.mark.parametrize(
    ("name", "plain"), [("Qwen3 Embedding 0.6B", "qwen3-embedding-0-6b"), ("BAAI/bge_m3 ", "baai-bge-m3"), ("", "")]
)
def test_plain_names(name, plain):
    assert plain_name(name) == plain


@pytest.mark.parametrize(
    ("kind", "pre", "n_tokens", "metadata", "expected"),
    [  # bos, eos, sep, adds bos, adds eos, adds sep
        ("wpm", "default", 30522, {}, (101, None, 102, True, False, True)),
        ("wpm", "default", 50, {}, (None, None, None, True, False, True)),
        ("wpm", "default", 50, {f"{G}bos_token_id": 3}, (3, None, None, True, False, True)),
        ("wpm", "default", 30522, {f"{G}bos_token_id": 99999}, (101, None, 102, True, False, True)),
        ("ugm", "default", 100, {}, (None, 1, None, False, True, False)),
        ("ugm", "default", 100, {f"{G}add_bos_token": True, f"{G}add_eos_token": False},
         (None, 1, None, True, False, False)),
        ("bpe", "qwen2", 100, {}, (11, 11, None, False, False, False)),
        ("bpe", "llama-bpe", 100, {}, (11, 11, None, True, False, False)),
        ("bpe", "roberta-bpe", 100, {}, (11, 11, None, False, False, True)),
        ("bpe", "gemma4", 100, {f"{G}add_bos_token": False}, (11, 11, None, True, False, False)),
        ("spm", "", 100, {f"{G}eos_token_id": 7}, (1, 7, None, True, False, False)),
        ("rwkv", "", 100, {}, (None, None, None, False, False, False)),
    ],
)  # fmt: skip
def test_effective_special_tokens_are_llama_cpps(kind, pre, n_tokens, metadata, expected):
    found = effective_special_tokens(kind, pre, n_tokens, metadata)
    ids = found.ids["bos"], found.ids["eos"], found.ids["sep"]
    assert (*ids, found.adds_bos, found.adds_eos, found.adds_sep) == expected


@pytest.mark.parametrize("names", [ARCHITECTURES, PRE_TOKENIZERS], ids=["architectures", "pre-tokenizers"])
def test_the_names_are_those_of_the_installed_llama_cpp(names):
    library = next(Path(llama_cpp.__file__).parent.glob("lib/libllama.*"))
    with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        # a compiler may compare short names as numbers, so only the longer ones must be strings there
        longer = [name for name in names if len(name) > 8]
        assert [name for name in longer if data.find(name.encode() + b"\0") < 0] == []
    assert len(longer) > 30


def test_every_architecture_for_embedding_is_one_that_llama_cpp_knows():
    assert EMBEDDING_ARCHITECTURES <= ARCHITECTURES


def entry(kind: int) -> MetadataEntry:
    return MetadataEntry("k", kind, kind, 1, 0, 0, 0)


@pytest.mark.parametrize(
    ("setting", "kind", "value"),
    [
        ("k=3", ValueType.UINT32, 3),
        ("k=int:3", ValueType.UINT32, 3),
        ("k=u64:3", ValueType.UINT64, 3),
        ("k=i8:-128", ValueType.INT8, -128),
        ("k=float:0.5", ValueType.FLOAT32, 0.5),
        ("k=bool:true", ValueType.BOOL, True),
        ("k=bool:0", ValueType.BOOL, False),
        ("k=str:a=b:c", ValueType.STRING, "a=b:c"),
        ("k=str:", ValueType.STRING, ""),
        ("k=uint32:4294967295", ValueType.UINT32, 2**32 - 1),
        ("qwen3.pooling_type=3", ValueType.UINT32, 3),
    ],
)
def test_a_setting_has_the_type_it_names_or_the_one_the_key_has(setting, kind: ValueType, value: Value):
    change = parse_setting(setting, {"k": entry(ValueType.UINT32)})
    assert (change.type, change.value, type(change.value)) == (kind, value, type(value))


def test_a_string_may_look_like_anything():
    assert parse_setting("k=http://x", {"k": entry(ValueType.STRING)}).value == "http://x"


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("k", "expected KEY=VALUE"),
        ("=3", "expected KEY=VALUE"),
        ("k=x", "'x' is not a value of type UINT32"),
        ("k=-1", "does not fit UINT32"),
        ("k=u8:256", "does not fit UINT8"),
        ("k=i8:-129", "does not fit INT8"),
        ("k=bool:maybe", "'maybe' is not a value of type BOOL"),
        ("new=3", "give its type"),
        ("list=3", "is an array"),
        ("general.alignment=64", "layout"),
        ("split.count=u16:1", "layout"),
    ],
)
def test_invalid_settings_are_refused_in_one_line(setting, message):
    with pytest.raises(ConfigError, match=message) as caught:
        parse_setting(setting, {"k": entry(ValueType.UINT32), "list": entry(9)})
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("value", "expected"), [(True, "true"), (3, "3"), ("a\nb", "'a\\nb'"), ("x" * 99, "'" + "x" * 56 + "...")]
)
def test_values_are_shown_on_one_line(value, expected):
    assert shown(value) == expected


def test_long_lists_are_cut():
    assert some("abcde") == "a, b, c and 2 more"
    assert some("ab") == "a, b"
