"""Decoding OpenAI's ids: what is dropped, what is refused, where the file is searched."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from gguf_embed.errors import ConfigError, InvalidRequest
from gguf_embed.tokenization import openai_encodings as openai_tokens
from gguf_embed.tokenization.openai_encodings import (
    OpenAIEncoding,
    RankFile,
    cache_folders,
    load_encoding,
    token_id_rule,
)

FOX = "🦊".encode()
PIECES = {0: b"a", 1: b" b", 2: FOX[:2], 3: FOX[2:], 4: FOX[1:], 5: FOX[:3], 6: b"<|endoftext|>"}
SPECIAL = b"<|end|>"
RANKS = b"YQ== 0\nIGI= 1\n8J+mig== 2\n"  # "a", " b", "🦊"


@pytest.fixture
def small_file(monkeypatch) -> RankFile:
    """A known encoding of three ranks and a special token."""
    known = RankFile("file-of-ranks", hashlib.sha256(RANKS).hexdigest(), {9: SPECIAL})
    monkeypatch.setitem(openai_tokens.RANK_FILES, "cl100k_base", known)
    return known


@pytest.mark.parametrize(
    ("tokens", "text"),
    [
        ([0, 1], "a b"),
        ([0, 2, 3, 1], "a🦊 b"),
        ([0, 6], "a<|endoftext|>"),
        ([3, 0], "a"),  # begins inside a character
        ([4, 0], "a"),
        ([0, 2], "a"),  # ends inside a character
        ([4, 0, 5], "a"),
    ],
)
def test_a_text_is_read_and_half_characters_at_its_ends_are_dropped(tokens, text):
    assert OpenAIEncoding("cl100k_base", PIECES).decode(tokens, 0) == text


@pytest.mark.parametrize("tokens", [[0, 3, 1], [0, 2, 1], [0, 3], [2], [3], [3, 2], [3, 3, 0]])
def test_ids_that_are_not_valid_text_are_refused(tokens):
    with pytest.raises(InvalidRequest, match=r"input 7: .*not valid text in cl100k_base") as caught:
        OpenAIEncoding("cl100k_base", PIECES).decode(tokens, 7)
    assert caught.value.param == "input"


def test_an_id_that_the_encoding_lacks_is_refused():
    with pytest.raises(InvalidRequest, match="input 1: token id 77 is not in o200k_base"):
        OpenAIEncoding("o200k_base", PIECES).decode([0, 77], 1)


def test_the_text_is_measured_only_until_it_is_over_the_limit():
    encoding = OpenAIEncoding("cl100k_base", {0: b" " * 128, 1: b"a"})
    assert encoding.n_bytes([0, 1, 1], 0, 1000) == 130
    assert encoding.n_bytes([1] * 250_000, 0, 10**9) == 250_000
    assert encoding.n_bytes([0] * 250_000 + [7], 0, 1000) == 128 * 100_000
    with pytest.raises(InvalidRequest, match="input 5: token id 7 is not in cl100k_base"):
        encoding.n_bytes([0, 7], 5, 1000)


@pytest.mark.parametrize(
    ("environment", "folders"),
    [
        ({}, ("/tmp/data-gym-cache",)),
        ({"DATA_GYM_CACHE_DIR": "/b"}, ("/b",)),
        ({"TIKTOKEN_CACHE_DIR": "/a", "DATA_GYM_CACHE_DIR": "/b"}, ("/a",)),
        ({"TIKTOKEN_CACHE_DIR": "", "DATA_GYM_CACHE_DIR": "/b"}, ()),
    ],
)
def test_the_file_is_searched_where_tiktoken_stores_it(environment, folders):
    assert cache_folders(environment, Path("/tmp")) == tuple(map(Path, folders))


def test_the_file_is_read_from_the_folder_that_has_it(small_file, tmp_path):
    (tmp_path / small_file.file).write_bytes(RANKS)
    encoding = load_encoding("cl100k_base", [tmp_path / "none", tmp_path])
    assert encoding.decode([2, 0, 1, 9], 0) == "🦊a b<|end|>"


def test_a_file_with_another_content_is_refused(small_file, tmp_path):
    (tmp_path / small_file.file).write_bytes(RANKS[:-1])
    with pytest.raises(ConfigError, match=f"{small_file.file} is not the file of cl100k_base"):
        load_encoding("cl100k_base", [tmp_path])


@pytest.mark.parametrize("folders", [(), ("nothing-here",)])
def test_a_missing_file_is_a_problem_that_the_rule_carries(folders):
    rule = token_id_rule("o200k_base", [Path(folder) for folder in folders])
    assert rule.encoding is None
    assert "o200k_base (fb374d419588a4632f3f557e76b4b70aebbca790) is not on this machine" in rule.problem


@pytest.mark.parametrize("meaning", ["auto", "model", "reject"])
def test_other_rules_need_no_file(meaning):
    rule = token_id_rule(meaning, [])
    assert (rule.meaning, rule.encoding, rule.problem) == (meaning, None, "")
