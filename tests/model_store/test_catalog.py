"""The catalog: its rows are complete and distinct, and names and files find the right one."""

from __future__ import annotations

import re
import tomllib

import pytest

from gguf_embed.errors import ModelFileError
from gguf_embed.gguf_file.static_format import ARCHITECTURE as STATIC_ARCHITECTURE
from gguf_embed.model_store.catalog import file_key, load_catalog, parse_catalog
from gguf_embed.model_store.default_model import DEFAULT_NAME
from gguf_embed.model_store.names import model_key, parse_model_name, parse_repo
from gguf_embed.types import Pooling
from tests.model_store.catalog_page import PAGE, page_with_table

CATALOG = load_catalog()
ROWS = CATALOG.rows

PICO_AI_SERVER = [
    "all-MiniLM-L6-v2",
    "msmarco-bert-base-dot-v5",
    "LaBSE",
    "gte-base",
    "bert-base-uncased",
    "mxbai-embed-large-v1",
    "roberta-base",
    "xlm-roberta-base",
    "multilingual-e5-large",
    "multilingual-e5-small",
    "paraphrase-multilingual-mpnet-base-v2",
    "xlm-roberta-base-multilingual-en-ar-fr-de-es-tr-it",
    "clip-vit-base-patch16",
    "clip-vit-base-patch32",
    "clip-vit-large-patch14",
    "glove-twitter-25",
    "glove-twitter-50",
    "glove-twitter-100",
    "glove-twitter-200",
    "potion-base-2M",
    "potion-base-4M",
    "potion-base-8M",
    "potion-retrieval-32M",
    "potion-base-32M",
    "M2V_base_output",
    "static-similarity-mrl-multilingual-v1",
]
"""The models that Pico AI Server names in its documentation of embeddings."""

OLLAMA = [
    "all-minilm",
    "all-minilm:22m",
    "all-minilm:33m",
    "nomic-embed-text",
    "nomic-embed-text-v2-moe",
    "mxbai-embed-large",
    "bge-m3",
    "bge-large",
    "snowflake-arctic-embed",
    "snowflake-arctic-embed:22m",
    "snowflake-arctic-embed:335m",
    "snowflake-arctic-embed2",
    "granite-embedding",
    "granite-embedding:278m",
    "paraphrase-multilingual",
    "embeddinggemma",
    "qwen3-embedding",
    "qwen3-embedding:0.6b",
]
"""The embedding models of ollama.com/library, with some of their tags."""

ROW = """
[[model]]
name = "m"
kind = "embedding"
architecture = "bert"
dimensions = 8
context = 16
license = "mit"
repo = "o/r"
source = "https://huggingface.co/o/r"
"""


@pytest.mark.parametrize("name", [*PICO_AI_SERVER, *OLLAMA, DEFAULT_NAME])
def test_a_well_known_name_has_a_row(name):
    row = CATALOG.find(name)
    assert row is not None
    assert row.repo or row.convert or row.not_yet


def test_there_are_many_rows_of_every_kind():
    kinds = [row.kind for row in ROWS]
    assert len(ROWS) >= 70
    assert {
        kind: kinds.count(kind) for kind in ("embedding", "multivector", "sparse", "rerank", "static", "image")
    }.keys() == set(kinds)
    assert kinds.count("rerank") >= 10


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_row_is_complete_and_sane(row):
    assert row.source.startswith("https://huggingface.co/")
    for name in row.names:
        parse_model_name(name)
    for repo in (row.repo, row.convert):
        assert repo is None or parse_repo(repo) == (repo, None)
    assert (row.file is None) == (row.repo is None)
    assert 25 <= row.dimensions <= 4096 or row.language
    assert list(row.matryoshka) == sorted(set(row.matryoshka), reverse=True)
    assert not row.matryoshka or row.matryoshka[0] == row.dimensions
    assert all(re.fullmatch(r"[a-z_]+", name) and text.strip() for name, text in row.prompts.items())
    assert row.license == row.license.lower()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_row_says_in_which_way_it_runs(row):
    assert [bool(row.repo or row.convert), bool(row.language), bool(row.not_yet)].count(True) == 1
    match row.kind:
        case "static":
            assert (row.architecture, row.pooling, row.context) == (STATIC_ARCHITECTURE, None, 0)
            assert row.convert
        case "image" if row.text_model is not None:
            assert (row.architecture, row.pooling) == ("nomic-bert", Pooling.MEAN)
            assert row.prompts == CATALOG.find("nomic-embed-text-v1.5").prompts
        case "image":
            n_tokens = 64 if row.name.startswith("siglip") else 77
            assert (row.architecture, row.pooling, row.context) == ("clip", Pooling.LAST, n_tokens)
        case "rerank":
            assert row.pooling is (None if row.name.startswith("jina-reranker-v3") else Pooling.RANK)
        case "multivector" | "sparse":
            is_bm25 = (row.architecture, row.dimensions, row.context) == ("bm25", 0, 0)
            assert row.convert or row.architecture == "lfm2" or is_bm25  # LFM2's projection llama.cpp computes
            assert row.pooling is None
        case "embedding":
            assert row.pooling in (Pooling.MEAN, Pooling.CLS, Pooling.LAST)
            assert row.context >= 384


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_row_has_languages_and_a_size_that_fits_its_parameters(row):
    assert row.languages
    assert all(re.fullmatch(r"[a-z]{2}|multilingual|code", language) for language in row.languages)
    if row.size_bytes is None:
        assert row.parameters is None or row.not_yet
    else:
        assert 0.5 <= row.size_bytes / (row.parameters * 1e6) <= 4.001


def test_the_size_is_about_that_of_the_file(default_model):
    size = CATALOG.find(DEFAULT_NAME).size_bytes
    assert abs(size / default_model.stat().st_size - 1) < 0.03


@pytest.mark.parametrize(
    ("name", "weight_type"),
    [("bge-m3", "F16"), ("e5-small-v2", "Q8_0"), ("Qwen3-Embedding-8B", "Q4_K_M"), ("potion-base-8M", "F32"),
     ("all-mpnet-base-v2", "F16"), ("gte-small", "F16")],
)  # fmt: skip
def test_the_type_of_the_weights_is_that_of_the_file_which_is_fetched_or_made(name, weight_type):
    assert CATALOG.find(name).weight_type == weight_type


def test_names_and_aliases_occur_once():
    keys = [model_key(name) for row in ROWS for name in row.names]
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("NOMIC-embed-text:latest", "nomic-embed-text-v1.5"),
        ("qwen3-embedding:0.6b", "Qwen3-Embedding-0.6B"),
        ("all-minilm:l12-v2", "all-MiniLM-L12-v2"),
        ("qwen3-embedding:1t", None),
        ("nothing", None),
    ],
)
def test_a_name_finds_its_row(name, found):
    row = CATALOG.find(name)
    assert (row and row.name) == found


@pytest.mark.parametrize(
    ("general_name", "stem", "repo", "found"),
    [
        (None, "nomic-embed-text-v1.5.Q8_0", None, "nomic-embed-text-v1.5"),
        (None, "all-MiniLM-L6-v2-ggml-model-f16", None, "all-MiniLM-L6-v2"),
        (None, "Qwen3-Embedding-0.6B-Q8_0", None, "Qwen3-Embedding-0.6B"),
        (None, "embeddinggemma-300m-qat-Q8_0", None, "embeddinggemma-300m"),
        (None, "gte-large_fp16", None, "gte-large"),
        (None, "e5-mistral-7b-instruct-Q4_K_M-00001-of-00002", None, "e5-mistral-7b-instruct"),
        ("Bge M3", "model", None, "bge-m3"),
        ("nomic-embed-text-v1.5", "x", None, "nomic-embed-text-v1.5"),
        ("something else", "bge-m3-FP16", None, "bge-m3"),
        (None, "model", "GPUstack/bge-m3-gguf", "bge-m3"),
        (None, "x", "minishlab/potion-base-8M", "potion-base-8M"),
        ("bge-m3-finetuned", "my-bge-m3", "me/bge-m3-legal", None),
        (None, "", None, None),
    ],
)
def test_a_file_finds_its_row_and_a_relative_finds_none(general_name, stem, repo, found):
    row = CATALOG.for_file(general_name, stem, repo)
    assert (row and row.name) == found


def test_prompts_are_the_words_of_the_cards():
    def prompt(name, kind):
        return CATALOG.find(name).prompts[kind]

    assert prompt("nomic-embed-text", "query") == "search_query: "
    assert prompt("multilingual-e5-small", "document") == "passage: "
    assert prompt("embeddinggemma", "document") == "title: none | text: "
    assert prompt("qwen3-embedding:0.6b", "query").endswith("answer the query\nQuery:")
    assert dict(CATALOG.find("all-minilm").prompts) == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[model]\n", "malformed"),
        (ROW.replace('kind = "embedding"\n', ""), "missing.*'kind'"),
        (ROW + 'color = "red"\n', "color"),
        (ROW + 'pooling = "max"\n', "max"),
        (ROW + ROW, "the name 'm' occurs twice"),
        (ROW + 'aliases = ["M:latest"]\n', "the name 'm' occurs twice"),
    ],
)
def test_a_malformed_catalog_is_named_on_one_line(text, message):
    with pytest.raises(ModelFileError, match=message) as caught:
        parse_catalog(text)
    assert "\n" not in caught.value.message


def test_file_keys_forget_the_quantization_and_nothing_else():
    assert file_key("m-v1.5.IQ4_XS") == file_key("M v1.5") == "m-v1.5"
    assert file_key("qwen3-4b") == "qwen3-4b"
    assert file_key("m2v_base_output") == "m2v_base_output"


def test_the_page_of_models_has_the_catalog():
    page = PAGE.read_text("utf-8")
    assert page_with_table(page) == page, "run: python -m tests.model_store.catalog_page"


def test_the_catalog_is_packaged():
    project = tomllib.loads((PAGE.parents[1] / "pyproject.toml").read_text("utf-8"))
    assert "catalog.toml" in project["tool"]["setuptools"]["package-data"]["gguf_embed.model_store"]
