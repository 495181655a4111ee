"""The errors for texts that are too long, on real engines: what they are about, and their ways out."""

from __future__ import annotations

import pytest

from gguf_embed.config import ModelConfig
from gguf_embed.errors import ChunksTooLong, InputTooLong, InvalidInput, InvalidRequest, WayOut, describe
from gguf_embed.server.dialects.cohere.dialect import COHERE
from gguf_embed.server.dialects.llama.dialect import LLAMA
from gguf_embed.server.dialects.ollama.dialect import OLLAMA
from gguf_embed.server.dialects.openai.dialect import OPENAI
from gguf_embed.server.dialects.tei.dialect import TEI
from gguf_embed.server.fields.error_position import position_of
from gguf_embed.types import Pooling, PromptChoice
from tests.running import running

LONG = "the cat " * 40
AVERAGE = '"long_input": "chunk_mean"'


@pytest.fixture(scope="module")
def encoder(models, tmp_path_factory):
    with running(models / "encoder.gguf", ModelConfig(), tmp_path_factory.mktemp("cache")) as service:
        yield service


@pytest.mark.parametrize("more", [{}, {"return_tokens": True}])
@pytest.mark.parametrize(
    ("fields", "helps"), [({}, True), ({"pooling": Pooling.CLS}, True), ({"pooling": Pooling.NONE}, False)]
)
def test_windows_are_named_where_they_would_help(encoder, fields, helps, more):
    with pytest.raises(InputTooLong) as caught:
        encoder.embed("a", "a", LONG, **fields, **more)
    assert caught.value.index == 2
    assert (WayOut.AVERAGE in caught.value.ways_out) is helps
    assert WayOut.TRUNCATE in caught.value.ways_out
    for dialect in (OPENAI, LLAMA):
        message = describe(caught.value, dialect.errors.words)
        assert (AVERAGE in message) is helps
        assert '"truncate": true' in message
    for dialect, words in ((COHERE, '"truncate": "END"'), (TEI, '"truncate": true'), (OLLAMA, '"truncate": true')):
        message = describe(caught.value, dialect.errors.words)
        assert words in message
        assert "chunk_mean" not in message


def test_a_skipped_text_s_error_has_the_same_ways_out(encoder):
    result = encoder.embed("a", LONG, on_error="skip")
    assert WayOut.AVERAGE in result.failures[0].error.ways_out


def test_spans_cannot_be_averaged(encoder):
    with pytest.raises(InputTooLong) as caught:
        encoder.embed(LONG, spans=(((0, 3),),))
    assert WayOut.AVERAGE not in caught.value.ways_out


@pytest.mark.parametrize("fields", [{}, {"on_error": "skip"}, {"return_tokens": True}])
def test_an_error_for_a_prompt_that_leaves_no_room_names_the_prompt_and_no_input(encoder, fields):
    with pytest.raises(InvalidRequest, match=r"prompt .*102 tokens.*64") as caught:
        encoder.embed("a", "b", prompt=PromptChoice(text="the cat " * 50, param="prompt"), **fields)
    assert (caught.value.param, caught.value.index) == ("prompt", None)
    with pytest.raises(InputTooLong) as long:
        encoder.embed("a", LONG, prompt=PromptChoice(text="the cat ", param="prompt"))
    assert long.value.index == 1


def test_errors_of_chunks_have_the_indexes_of_the_inputs(encoder):
    chunks = {"spans_are_inputs": True}
    with pytest.raises(InvalidInput, match=r"^input 1 .*chunk of one text: .*no token") as caught:
        encoder.embed("the cat", spans=(((0, 3), (3, 4)),), **chunks)
    assert (caught.value.index, caught.value.param) == (1, "input")
    with pytest.raises(InvalidInput, match=r"^input 1 .*chunk of one text: truncation"):
        encoder.embed(LONG, spans=(((0, 300), (300, 310)),), truncate=True, **chunks)
    with pytest.raises(ChunksTooLong, match=r"82 tokens.*64") as long:
        encoder.embed(LONG, spans=(((0, 8), (8, 320)),), **chunks)
    assert position_of(long.value) == {"n_prompt_tokens": 82, "n_ctx": 64}


def test_an_error_about_one_input_has_its_param_and_index(encoder):
    with pytest.raises(InvalidInput) as caught:
        encoder.embed("a", (10_000,))
    assert (caught.value.param, caught.value.index) == ("input", 1)
    with pytest.raises(InvalidInput) as caught:
        encoder.embed("a", "x" * 1_000_001)
    assert (caught.value.param, caught.value.index) == ("input", 1)
    with pytest.raises(InvalidInput, match=r"^input 1 begins with a token id") as caught:
        encoder.embed("a", (5, 6), prompt=PromptChoice(text="the "))
    assert caught.value.index == 1
