"""How much text `/tokenize` takes."""

from __future__ import annotations

import pytest

from gguf_embed.errors import InvalidRequest
from gguf_embed.preprocessing.tokens import MAX_CHARACTERS
from gguf_embed.server.dialects.llama.tokenize import parse_tokenize
from gguf_embed.server.dialects.tei.tokens import parse_texts
from gguf_embed.tokenization.offsets import MAX_OFFSET_CHARACTERS

HALF = "x" * (MAX_CHARACTERS // 2)


@pytest.mark.parametrize("content", [HALF + HALF, [HALF, 5, HALF]])
def test_a_text_of_the_maximum_length_is_accepted(content):
    taken = parse_tokenize({"content": content}).content
    assert sum(len(part) for part in taken if isinstance(part, str)) == MAX_CHARACTERS


@pytest.mark.parametrize("content", [HALF + HALF + "x", [HALF, 5, HALF, "x"]])
def test_more_is_refused_with_the_limit(content):
    with pytest.raises(InvalidRequest, match=r"1,000,001 characters.*1,000,000") as caught:
        parse_tokenize({"content": content})
    assert caught.value.param == "content"


def test_with_offsets_a_request_s_texts_have_a_limit_together():
    quarter = "x" * (MAX_OFFSET_CHARACTERS // 4)
    assert list(parse_texts({"inputs": [quarter] * 4}, 10)) == [quarter] * 4
    with pytest.raises(InvalidRequest, match=r"2,000,000.*2,500,000"):
        parse_texts({"inputs": [quarter] * 5}, 10)
