"""The chunk flag and the settings in manifests."""

from __future__ import annotations

import pytest

from gguf_embed.errors import ConfigError
from gguf_embed.ingest.chunking.settings import ChunkSettings, parse_chunk_flag, settings_json


@pytest.mark.parametrize(
    ("flag", "settings"),
    [
        ("256", ChunkSettings(256)),
        ("size=256", ChunkSettings(256)),
        ("256,overlap=32,by=markdown", ChunkSettings(256, 32, "markdown")),
        (" 8 , by=Sentence , overlap=3 ", ChunkSettings(8, 3, "sentence")),
        ("none", None),
        ("None", None),
    ],
)
def test_the_flag_gives_settings(flag, settings):
    assert parse_chunk_flag(flag) == settings


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("", "--chunk : the size '' is not a number of tokens: use a number of tokens such as 256"),
        ("many", "'many'"),
        ("-5", "'-5'"),
        ("25.5", "'25.5'"),
        ("²", "'²'"),
        ("9999999999999", "is not a number of tokens"),
        ("7", "chunk size of 7 tokens is too small: use at least 8"),
        ("100,overlap=50", "overlap of 50 tokens does not fit a size of 100: use 0 to 49"),
        ("100,overlap=-1", "the overlap '-1' is not a number"),
        ("100,by=page", "'page': use auto, sentence, paragraph or markdown"),
        ("100,32", "'32' is neither overlap=TOKENS nor by=KIND"),
        ("100,by=auto,by=auto", "two values for by"),
    ],
)
def test_nonsense_names_the_value_and_what_is_allowed(flag, words):
    with pytest.raises(ConfigError) as raised:
        parse_chunk_flag(flag)
    assert words in raised.value.message
    assert raised.value.message.startswith(f"--chunk {flag}")
    assert "\n" not in raised.value.message


def test_the_same_settings_have_the_same_json():
    assert settings_json(ChunkSettings(256, 32)) == '{"by":"auto","overlap":32,"size":256}'
    assert settings_json(parse_chunk_flag("none")) == "{}"
