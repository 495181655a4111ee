"""LangChain's OpenAIEmbeddings as it is by default: it sends cl100k_base ids, never texts."""

from __future__ import annotations

from typing import Any

import numpy as np
import openai
import pytest
import tiktoken
from langchain_openai import OpenAIEmbeddings

from tests.compat.heavy.comparing import assert_close, assert_own
from tests.server_process import Server

TEXTS = [
    "How do I boil an egg?",
    "안녕하세요 세계",
    "नमस्ते दुनिया",
    "🦊" * 20,
    "",
    "two\nlines\tand  blanks ",
    '#1 is "the best"',  # 2 … 1 in cl100k_base: what Gemma puts around its own ids
    "!important C#",  # 0 … 2: XLM-RoBERTa's
    "<|endoftext|> [SEP]",
]
LONG = "It rained all night, and in the morning the river stood in the street. " * 6


def langchain(server: Server, **fields: Any) -> OpenAIEmbeddings:
    return OpenAIEmbeddings(base_url=server.url + "/v1", api_key="unused", max_retries=0, **fields)


def test_ids_become_their_text_again(cl100k_server):
    model = langchain(cl100k_server)
    assert_own(model.embed_documents(TEXTS), cl100k_server, TEXTS)
    assert_own([model.embed_query(TEXTS[1])], cl100k_server, TEXTS[1:2])


def test_a_long_text_is_the_average_of_its_pieces(cl100k_server):
    encoding = tiktoken.get_encoding("cl100k_base")
    tokens = encoding.encode(LONG)
    pieces = [tokens[begin : begin + 32] for begin in range(0, len(tokens), 32)]
    rows = cl100k_server.embed([encoding.decode(piece) for piece in pieces])
    mean = np.average(rows, axis=0, weights=[len(piece) for piece in pieces])
    found = langchain(cl100k_server, embedding_ctx_length=32).embed_documents([LONG])
    assert_close(found, [mean / np.linalg.norm(mean)])


@pytest.mark.parametrize("length", [5, 6, 7])
def test_pieces_that_cut_characters_are_answered(cl100k_server, length):
    (row,) = langchain(cl100k_server, embedding_ctx_length=length).embed_documents(["🦊 जंगल 🦔 में " * 4])
    assert np.isfinite(row).all()


def test_the_default_is_a_clear_error(default_server):
    with pytest.raises(openai.BadRequestError, match="check_embedding_ctx_length=False"):
        langchain(default_server).embed_documents(["How do I boil an egg?"])
    without = langchain(default_server, check_embedding_ctx_length=False)
    assert_own(without.embed_documents(TEXTS), default_server, TEXTS)


@pytest.mark.parametrize("file", ["encoder.gguf", "decoder.gguf"])
def test_by_default_no_ids_are_taken_for_a_models_own(launch, models, file):
    model = langchain(launch("-m", models / file))
    for text in filter(None, TEXTS):
        with pytest.raises(openai.BadRequestError, match="check_embedding_ctx_length=False"):
            model.embed_query(text)


def test_without_the_encodings_file_it_is_a_clear_error(launch, tmp_path):
    server = launch("--openai-token-ids", "cl100k_base", TIKTOKEN_CACHE_DIR=str(tmp_path))
    assert any("tiktoken.get_encoding('cl100k_base')" in line for line in server.banner)
    with pytest.raises(openai.BadRequestError, match="check_embedding_ctx_length=False") as caught:
        langchain(server).embed_documents(["How do I boil an egg?"])
    assert str(tmp_path) in caught.value.message
    without = langchain(server, check_embedding_ctx_length=False)
    assert_own(without.embed_documents(TEXTS), server, TEXTS)
