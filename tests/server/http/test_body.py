"""JSON bodies and truncation headers, without HTTP."""

from __future__ import annotations

import codecs

import pytest

from gguf_embed.errors import InvalidRequest
from gguf_embed.server.http.body import format_truncated_header
from gguf_embed.server.http.json_text import parse_object
from gguf_embed.types import Truncation


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (rb'{"input":"a\ud83d"}', "a\ufffd"),  # JavaScript's "a😀".slice(0, 2)
        (rb'{"input":"\ude00b"}', "\ufffdb"),
        (rb'{"input":"\ud83d\ude00"}', "😀"),
        (rb'{"input":"\ud83d\ude00 \ud83d"}', "😀 \ufffd"),
        (rb'{"input":"\\ud83d \ud83d"}', "\\ud83d \ufffd"),
        (rb'{"input":"\u00e9"}', "é"),
    ],
)
def test_a_lone_surrogate_becomes_the_replacement_character(raw, text):
    assert parse_object(raw) == {"input": text}


TEXT = '{"input": "Größe 😀"}'


@pytest.mark.parametrize(
    "raw",
    [
        TEXT.encode("utf-8-sig"),
        codecs.BOM_UTF16_LE + TEXT.encode("utf-16-le"),  # PowerShell
        codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be"),
    ],
)
def test_a_byte_order_mark_is_no_part_of_the_text(raw):
    assert parse_object(raw) == {"input": "Größe 😀"}


def test_a_lone_surrogate_is_repaired_after_a_mark_as_well():
    assert parse_object(codecs.BOM_UTF8 + rb'{"input":"a\ud83d"}') == {"input": "a\ufffd"}


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (codecs.BOM_UTF8, "the body is empty"),
        (codecs.BOM_UTF8 * 5000, "not valid JSON"),
        (codecs.BOM_UTF8 + b"[]", "found an empty array"),
        (codecs.BOM_UTF16_LE + b"{", "not valid UTF-16"),
        (codecs.BOM_UTF16_LE + b"\x00\xd8{}", "not valid UTF-16"),
        (b"", "the body is empty"),
        (b'{"a": 1,}', "line 1 column 8"),
        (b'{"input": "\xff"}', "not valid UTF-8: byte 11 is 0xff"),
        (b"[1]", "must be a JSON object, found an array of 1"),
        (b"null", "found null"),
        (b'{"a": NaN}', "not valid JSON"),
        (b'{"a":' * 5000, "not valid JSON"),
        (rb'{"a": "\ud83d" ', "not valid JSON"),
    ],
)
def test_the_error_for_a_malformed_body_names_the_problem_and_its_position(raw, message):
    with pytest.raises(InvalidRequest) as caught:
        parse_object(raw)
    assert message in caught.value.message


@pytest.mark.parametrize(("n", "header"), [(1, "0"), (3, "0,1,2")])
def test_the_header_lists_what_was_cut(n, header):
    assert format_truncated_header([Truncation(index, 9, 8) for index in range(n)]) == header


def test_the_header_stays_short():
    header = format_truncated_header([Truncation(index, 9, 8) for index in range(62)])
    assert header.startswith("0,1,2,")
    assert header.endswith(",49,+12")
