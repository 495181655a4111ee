"""How the fields beyond vectors are read from a body, and what contradicts what."""

from __future__ import annotations

import pytest

from gguf_embed.errors import InvalidRequest, NotSupported
from gguf_embed.offsets import OffsetUnit
from gguf_embed.server.openai import parse_openai_embed
from gguf_embed.server.request_options import FIELDS, MAX_SPANS, Extras, parse_extras


def parse(**body: object) -> Extras:
    extras = parse_extras(body, "input", 100)
    assert extras is not None
    return extras


def test_without_the_fields_there_is_nothing():
    assert parse_extras({"input": "a", "model": "m"}, "input", 100) is None
    asked = parse_openai_embed({"input": "a"}, 100)
    assert (asked.extras, asked.request.spans, asked.request.refused) == (None, (), {})


@pytest.mark.parametrize("field", sorted(FIELDS))
def test_null_and_the_defaults_ask_for_nothing(field):
    assert parse(input=["a", "b"], **{field: None}) == Extras(("a", "b"))
    assert parse(input="a", return_tokens=False, late_chunking=False, on_error="fail", long_input="error") == Extras(
        ("a",)
    )


@pytest.mark.parametrize(
    ("given", "spans", "expected"),
    [
        ("the cat", [[0, 3], [4, 7]], (((0, 3), (4, 7)),)),
        (["the cat"], [[0, 3]], (((0, 3),),)),
        (["the cat"], [[[0, 3], [2, 7]]], (((0, 3), (2, 7)),)),
        (["ab", "cd"], [[[0, 1]], [[0, 2], [1, 2]]], (((0, 1),), ((0, 2), (1, 2)))),
    ],
)
def test_spans_of_one_text_or_of_each(given, spans, expected):
    assert parse(input=given, spans=spans).spans == expected


@pytest.mark.parametrize(
    ("unit", "span"), [("codepoints", [1, 2]), ("utf16", [1, 3]), ("UTF8", [1, 5]), ("utf16", [0, 4])]
)
def test_spans_count_in_the_unit_that_is_named(unit, span):
    extras = parse(input="a🎉b", spans=[span], offset_unit=unit)
    assert extras.spans == (((0 if span[0] == 0 else 1, 3 if span == [0, 4] else 2),),)
    assert extras.unit is OffsetUnit(unit.lower())


def test_late_chunking_joins_the_chunks_and_keeps_their_places():
    extras = parse(input=["Berlin is big. ", "It 🎉", " grows"], late_chunking=True)
    assert extras.inputs == ("Berlin is big. It 🎉 grows",)
    assert extras.spans == (((0, 15), (15, 19), (19, 25)),)
    assert extras.chunks_joined


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"return_tokens": 1}, '"return_tokens" must be true or false'),
        ({"on_error": "ignore"}, '"on_error" must be one of "fail", "skip"'),
        ({"long_input": "mean"}, '"long_input" must be one of "error", "chunk_mean"'),
        ({"offset_unit": "chars"}, '"offset_unit" must be one of "codepoints", "utf16", "utf8"'),
        ({"spans": "all"}, '"spans" must be an array of pairs [start, end], found the string'),
        ({"spans": []}, '"spans" has 0 entries and there are 1 inputs'),
        ({"spans": [[]]}, '"spans[0]" must be an array of pairs [start, end], found an empty array'),
        ({"spans": [0, 3]}, '"spans" has 2 entries and there are 1 inputs'),
        ({"spans": [[0, 3], [0]]}, '"spans[1]" must be a pair [start, end] of integers, found an array of 1'),
        ({"spans": [[0, 3.0]]}, "of integers"),
        ({"spans": [[True, 3]]}, "of integers, found true"),
        ({"spans": [[0, 3], [True, 3]]}, "of integers"),
        ({"spans": [[3, 3]]}, "is [3, 3]: it must begin before it ends"),
        ({"spans": [[0, 8]]}, "within 0 and 7, the length of the text in codepoints"),
        ({"spans": [[-1, 3]]}, "must begin before it ends"),
        ({"spans": [[0, 1]] * (MAX_SPANS + 1)}, f"over {MAX_SPANS:,} pairs"),
        ({"input": "🎉", "spans": [[0, 1]], "offset_unit": "utf16"}, "cuts a character in two (utf16)"),
        ({"input": [1, 2], "spans": [[0, 1]]}, "token ids: send text"),
        ({"input": ["a", "b"], "spans": [[0, 1]]}, "1 entries and there are 2 inputs"),
        ({"input": ["a", "b"], "spans": [[[0, 1]], None]}, '"spans[1]" must be an array of pairs'),
        ({"late_chunking": "yes"}, '"late_chunking" must be true or false'),
        ({"late_chunking": True, "spans": [[0, 1]]}, "send one of them"),
        ({"late_chunking": True, "on_error": "skip"}, "send one of them"),
        ({"input": ["a", " \n"], "late_chunking": True}, '"input[1]" is a chunk without words'),
        ({"input": ["a", [1, 2]], "late_chunking": True}, '"input[1]" is token ids'),
        ({"input": [], "on_error": "skip"}, "must not be empty"),
        ({"input": ["a"] * 101, "on_error": "skip"}, "the limit per request is 100"),
        ({"input": ["a", None, 3], "on_error": "skip"}, "must be a token id"),
        ({"input": None, "on_error": "skip"}, "found null"),
    ],
)
def test_what_cannot_be_meant_is_one_clear_line(body, message):
    with pytest.raises(InvalidRequest) as caught:
        parse(**{"input": "the cat", **body})
    assert message in caught.value.message
    assert "\n" not in caught.value.message


def test_with_skip_inputs_of_the_wrong_type_are_set_aside():
    extras = parse(input=["a", None, {"x": 1}, [], "b", {"prompt_string": "c"}], on_error="skip")
    assert extras.inputs == ("a", "", "", "", "b", "c")
    assert sorted(extras.refused) == [1, 2, 3]
    assert all(isinstance(error, InvalidRequest | NotSupported) for error in extras.refused.values())
    assert '"input[1]" must be' in extras.refused[1].message


def test_spans_of_an_input_that_is_set_aside_are_not_read():
    extras = parse(input=["ab", None], spans=[[[0, 2]], "whatever"], on_error="skip")
    assert (extras.spans[0], sorted(extras.refused)) == (((0, 2),), [1])
